"""ALLoRA: low-rank adaptation whose rows step far while they are near zero (Huang, Balestriero 2024, arXiv:2410.09692;
papers: allora).

LoRA without dropout and without a scale: y = x (W + B A)^T, A [r, in] uniform in +-1/sqrt(in), B [out, r] zero. The
optimizer's change of row i of B is multiplied by

    c_i = 1 / sqrt(n_i + 1 / eta^2),   n_i = ||B_i||_2, or ||(B A)_i||_2 = sqrt(B_i (A A^T) B_i^T)          no unit

so c_i = eta where the row is zero and falls as the row grows; c_i is a constant to the gradient. Since c moves slowly,
a factor on the gradient would cancel in Adam's ratio: it acts on the optimizer's finished step (weight decay's part
too). As eta goes to 0, c / eta goes to 1: plain LoRA at eta times the rate. No state of its own.

The factor acts on every low-rank pair that trains, this method's own and any other method's beside it.
Raises MethodError for `target_modules` that name no module.

Reconstructed from the abstract, reviews and third-party code; the paper's own equation was not read. Which rows are
measured is not settled there, so it is a parameter: reviews quote those of the product, code those of a factor, and the
default is B's, ours. Rows of A are about 0.6 long at the start, so that the product's rows are about 0.6 times B's at
first, and the factor of a row falls earlier under `norm: B`: by at most 1.3, where rows are long.

Differs from the paper in: The abstract's "per sample" scaling is not done: gradients are sums over
samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from tunewright.pieces.low_rank import LowRankMethod


def row_norms(B: Tensor, A: Tensor | None = None) -> Tensor:
    """Euclidean length of each row [out] of B [out, r], or of the product B A (A [r, in]) without forming it."""
    if A is None:
        return torch.linalg.vector_norm(B, dim=1)
    return ((B @ (A @ A.T)) * B).sum(1).clamp_min(0).sqrt()


def factors(norms: Tensor, eta: float) -> Tensor:
    """What each row's step is multiplied by: eta at length 0, about 1/sqrt(length) far from it."""
    return 1.0 / (norms + 1.0 / eta**2).sqrt()


class ALLoRA(LowRankMethod):
    """LoRA with a step size a row that follows the row's length."""

    eta: PositiveFloat = Field(2.0, description="factor of a row's step while the row is zero", examples=[4.0])
    norm: Literal["B", "product"] = Field(
        "B", description="whose rows' length counts: B's, or those of the change B A", examples=["product"]
    )

    divides: ClassVar[bool] = True
    alpha: ClassVar[None] = None  # type: ignore[misc]
    dropout: ClassVar[float] = 0.0  # type: ignore[misc]
    default_scale: ClassVar[float] = 1.0
    category: ClassVar[str] = "reparameterised"
    papers: ClassVar[tuple[str, ...]] = ("allora",)
    conformance: ClassVar[dict[str, object]] = {"rank": 2}

    def update(self, changes: dict[str, Tensor], parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        out = dict(changes)
        for name in changes:
            path, _, part = name.rpartition(".")
            if part == "lora_B":
                A = parameters.get(f"{path}.lora_A") if self.norm == "product" else None
                out[name] = changes[name] * factors(row_norms(parameters[name], A), self.eta)[:, None]
        return out
