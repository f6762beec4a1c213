"""GaLore: Adam in a low-rank view of each gradient (Zhao et al. 2024, arXiv:2403.03507).

Of a matrix's gradient G [m, n] the r leading singular vectors P are taken anew every `update_proj_gap` steps, of the
shorter side: P [m, r] where m <= n, else [n, r]. Adam's moments live in R = P^T G [r, n] (or G P [m, r]), and the step
is scale P Adam(R): the optimizer keeps r numbers where AdamW keeps the whole side. Moments are kept when P changes, as
in the paper. Matrices whose shorter side is at most r, and what is no matrix, take AdamW.

Defaults: rank 128, a new view every 200 steps, scale 0.25 (the authors' code); betas, eps as AdamW's; weight decay
decoupled, at the recipe's rate. P comes from a full SVD in float32, whose signs are torch's.
Differs from the authors' code in: `proj_type` std alone; no 8-bit moments, no step inside the backward pass.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from tunewright.contract.method import Method


def view_of(gradient: Tensor, rank: int) -> Tensor:
    """P: the `rank` leading singular vectors of the shorter side of a gradient [m, n], as columns."""
    u, _, v = torch.linalg.svd(gradient.float(), full_matrices=False)
    return u[:, :rank] if gradient.shape[0] <= gradient.shape[1] else v[:rank].t()


class LowRankAdam(torch.optim.Optimizer):
    """AdamW whose moments of large matrices live in a view of rank r. State: `step`, `view`, `exp_avg`,
    `exp_avg_sq`.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float, **options: Any):
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "betas": (0.9, 0.999), **options})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._one(p, p.grad, group)

    def _one(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[p]
        t = int(state.get("step", 0))
        low = p.dim() == 2 and min(p.shape) > group["rank"]
        left = p.shape[0] <= p.shape[1] if low else False
        if low and t % group["update_proj_gap"] == 0:
            state["view"] = view_of(gradient, group["rank"])
        g = gradient
        if low:
            g = state["view"].t() @ gradient if left else gradient @ state["view"]
        b1, b2 = group["betas"]
        m = state.setdefault("exp_avg", torch.zeros_like(g)).lerp_(g, 1 - b1)
        v = state.setdefault("exp_avg_sq", torch.zeros_like(g)).mul_(b2).addcmul_(g, g, value=1 - b2)
        state["step"] = torch.tensor(t + 1, device=p.device)
        move = (m / (1 - b1 ** (t + 1))) / ((v / (1 - b2 ** (t + 1))).sqrt() + group["eps"])
        if low:
            move = group["scale"] * (state["view"] @ move if left else move @ state["view"].t())
        p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(move, alpha=group["lr"])


class GaLore(Method):
    """Adam's moments in a low-rank view of the gradient."""

    rank: PositiveInt = Field(128, description="rank of the view", examples=[4])
    update_proj_gap: PositiveInt = Field(200, description="steps between two views", examples=[2])
    scale: PositiveFloat = Field(0.25, description="factor of the steps of viewed matrices", examples=[1.0])
    group: Literal["all", "base", "delta", "owned"] = Field(
        "all", description="parameters that it steps; the recipe's optimizer takes the others", examples=["owned"]
    )

    conformance: ClassVar[dict[str, object]] = {"rank": 4, "update_proj_gap": 2}

    def optimizer(
        self, parameters: dict[str, nn.Parameter], learning_rate: float, weight_decay: float
    ) -> torch.optim.Optimizer:
        options = {"rank": self.rank, "update_proj_gap": self.update_proj_gap, "scale": self.scale, "eps": 1e-8}
        return LowRankAdam(parameters.values(), learning_rate, weight_decay, **options)
