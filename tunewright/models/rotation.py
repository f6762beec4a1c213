"""A linear layer's input turned block by block, so that the angles between its weight's rows stay: x <- x R.

R [in, in] is block-diagonal with blocks [b, b], each made of a skew-symmetric Q whose entries above the diagonal train:
R = (I - Q)(I + Q)^-1 (Cayley), or its mirror image by a short series, I + 2 Q + 2 Q^2 + .. + Q^p, which needs no
inverse and is orthogonal only near zero. Formulas are PEFT's, so that files mean the same.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tunewright.models.delta_forms import Delta
from tunewright.models.dora import exactly
from tunewright.models.sites import Site


def cayley(Q: Tensor, terms: int | None) -> Tensor:
    """R [B, b, b] of skew-symmetric Q [B, b, b]: exact where `terms` is None, else the series of so many."""
    eye = torch.eye(Q.shape[-1], dtype=Q.dtype, device=Q.device)
    if terms is None:
        return torch.linalg.solve(eye + Q, eye - Q, left=False)
    if terms < 2:
        return eye.expand_as(Q)
    R, power = eye + 2.0 * Q, Q
    last = max(3, terms - 1) if terms > 2 else 1
    for p in range(2, last + 1):
        power = power @ Q
        R = R + (1.0 if p == last else 2.0) * power
    return R


def block_of(inputs: int, wanted: int) -> int:
    """The divisor of `inputs` nearest to `wanted`, the smaller of two as near."""
    divisors = [d for d in range(1, inputs + 1) if inputs % d == 0]
    return min(divisors, key=lambda d: (abs(d - wanted), d))


class Rotation(Delta):
    """x <- x (I + strength (R - I)). `values` [B, b (b - 1) / 2], B = in / b blocks, or 1 that all places share."""

    form = "rotation"
    edits_input: ClassVar[bool] = True

    upper: Tensor

    def __init__(self, values: Tensor, inputs: int, *, block_size: int, terms: int | None):
        super().__init__()
        self.values = nn.Parameter(values)
        self.inputs, self.block_size, self.terms = inputs, block_size, terms
        self.register_buffer("upper", torch.triu_indices(block_size, block_size, 1), persistent=False)

    def blocks(self, strength: float) -> Tensor:
        """[B, b, b] at a strength."""
        b = self.block_size
        with exactly(self.values.device):
            places = (self.upper[0] * b + self.upper[1]).expand(len(self.values), -1)
            upper = self.values.new_zeros(len(self.values), b * b).scatter(1, places, self.values).view(-1, b, b)
            R = cayley(upper - upper.transpose(-1, -2), self.terms)
        return R if strength == 1.0 else torch.lerp(torch.eye(b, dtype=R.dtype, device=R.device), R, strength)

    def turned(self, rows: Tensor, R: Tensor) -> Tensor:
        """rows [.., in] with each block times its R."""
        parts = rows.unflatten(-1, (-1, self.block_size))
        if len(R) == 1:
            return (parts @ R[0]).flatten(-2)
        return torch.einsum("...rk,rkc->...rc", parts, R).flatten(-2)

    def before(self, x: Tensor) -> Tensor:
        R = self.blocks(self.strength)
        return self.turned(x.to(R.dtype), R).to(x.dtype)

    def folded(self, weight: Tensor, bias: Tensor | None, strength: float = 1.0) -> tuple[Tensor, Tensor | None]:
        return self.turned(weight, self.blocks(strength).transpose(-1, -2).to(weight.dtype)), bias

    @property
    def entries(self) -> int:
        return self.inputs * self.block_size

    def settings(self) -> dict[str, Any]:
        about = {"block_size": self.block_size, "terms": self.terms}
        return {"blocks": len(self.values), **about}

    @classmethod
    def rebuild(cls, settings: dict[str, Any], site: Site) -> Rotation:
        b = settings["block_size"]
        values = torch.zeros(settings["blocks"], b * (b - 1) // 2)
        return cls(values, site.in_features, block_size=b, terms=settings["terms"])
