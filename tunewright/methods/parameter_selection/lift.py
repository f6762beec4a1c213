"""LIFT: low-rank-informed sparse fine-tuning (Liu et al. 2025, arXiv:2506.00772; papers: lift).

Of each linear weight W [m, n] inside the blocks only those entries train that are largest after the matrix has been
reduced to rank f: R = U_f S_f V_f^T, mask = the k largest |R|, k = min(r (m + n), m n), which is LoRA's budget at rank
r. Every `refresh_steps` the mask is drawn again from the present W; the moments of entries that stay are kept,
newcomers start at zero, leavers keep their value and lose their moments; the optimizer's step count goes on.
Gradient and optimizer state exist for the k entries alone.

Embeddings, norms, biases and head stay frozen. The optimizer is the recipe's (the paper: Adam, betas 0.9 and 0.95).
Differs from the paper in: U_f comes from the eigenvectors of W W^T (or W^T W, the smaller) in fp64, R = U_f U_f^T W,
which is the same matrix; the authors also have a randomised decomposition.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from tunewright.contract.method import Candidates, Choice, Method, Plan


def low_rank_part(W: Tensor, rank: int) -> Tensor:
    """The best rank-`rank` approximation of W [m, n], in fp32."""
    M = W.detach().double()
    if M.shape[0] > M.shape[1]:
        return low_rank_part(W.t(), rank).t()
    if rank >= M.shape[0]:
        return M.float()
    U = torch.linalg.eigh(M @ M.t()).eigenvectors[:, -rank:]
    return (U @ (U.t() @ M)).float()


def largest_entries(R: Tensor, k: int) -> Tensor:
    """Flat indices of the k largest |R|, sorted (int64)."""
    return R.abs().flatten().topk(k).indices.sort().values


def budget(m: int, n: int, rank: int) -> int:
    """Entries that train of an m x n matrix: as many as LoRA has at this rank, at most all."""
    return min(rank * (m + n), m * n)


class LIFT(Method):
    """Train the entries that carry each matrix's low-rank part."""

    rank: PositiveInt = Field(
        128, description="budget: as many entries as LoRA of this rank has parameters", examples=[32]
    )
    filter_rank: PositiveInt = Field(
        64, description="rank f to which a matrix is reduced before its entries are compared", examples=[16]
    )
    refresh_steps: PositiveInt | None = Field(
        400, description="optimizer steps between drawings; none: once per stage", examples=[2, None]
    )

    category: ClassVar[str] = "selective"
    quantised: ClassVar[bool] = False
    papers: ClassVar[tuple[str, ...]] = ("lift",)
    conformance: ClassVar[dict[str, object]] = {"rank": 2, "filter_rank": 4, "refresh_steps": 1}

    def choose(self, candidates: Candidates) -> Choice:
        entries = {n: self._mask(W) for n, W in candidates.linear_weights().items()}
        return Choice(tuple(candidates.deltas), entries, redraw_every=self.refresh_steps, moments="preserve")

    def caution(self, plan: Plan) -> str | None:
        if self.refresh_steps is None or self.refresh_steps < plan.steps:
            return None
        return (
            f"the mask is drawn once: {plan.steps} steps do not reach refresh_steps {self.refresh_steps}; write fewer, "
            "or none to say so"
        )

    def _mask(self, W: Tensor) -> Tensor:
        m, n = W.shape
        return largest_entries(low_rank_part(W, self.filter_rank), budget(m, n, self.rank))
