"""Linear layers refitted to what they should give: sums over rows, and the ridge solution anchored at a start."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tunewright.errors import MethodError

RANK = 1e-6
"""Share of a gram matrix's largest eigenvalue below which a direction counts as one that no row spans (fp32
products).
"""


@dataclass
class Sums:
    """Sums over rows of x [n, in] and y [n, out], fp64: gram = X^T X [in, in], cross = Y^T X [out, in], square =
    sum y^2.
    """

    gram: Tensor
    cross: Tensor
    square: float = 0.0
    rows: int = 0

    @classmethod
    def of(cls, inputs: int, outputs: int, device: torch.device | None = None) -> Sums:
        """Nothing added yet; rows will come from `device`."""
        gram, cross = (torch.zeros(n, inputs, dtype=torch.float64, device=device) for n in (inputs, outputs))
        return cls(gram, cross)

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add rows. Products are formed in the rows' own type and added in fp64."""
        self.gram += (x.T @ x).double()
        self.cross += (y.T @ x).double()
        self.square += float(y.double().square().sum())
        self.rows += len(x)

    def error(self, weight: Tensor) -> float:
        """sum ||W x - y||^2 / sum ||y||^2 over the rows; W [out, in]."""
        w = weight.double()
        total = ((w @ self.gram) * w).sum() - 2 * (w * self.cross).sum() + self.square
        return float(total) / max(self.square, 1e-300)


def solve(sums: Sums, start: Tensor, ridge: float) -> Tensor:
    """argmin_W sum ||W x - y||^2 + l ||W - start||^2, [out, in] fp64, l = ridge x the mean diagonal of the gram matrix.

    It satisfies W (G + l I) = C + l start, and its error is never above the start's: with l > 0 what the rows do not
    span stays as it was. ridge 0 takes the least-norm change. MethodError where the sums are not finite.
    """
    gram, start = sums.gram, start.double()
    if not bool(torch.isfinite(gram).all() and torch.isfinite(sums.cross).all()):
        raise MethodError(
            "the calibration rows give activations that are not finite", remedy="check both models on these rows"
        )
    left = sums.cross - start @ gram
    strength = ridge * float(gram.diagonal().mean())
    if strength > 0:
        factor = torch.linalg.cholesky(gram + strength * torch.eye(len(gram), dtype=gram.dtype, device=gram.device))
        return start + torch.cholesky_solve(left.T, factor).T
    return start + left @ torch.linalg.pinv(gram, rtol=RANK, hermitian=True)


def regmean(weights: list[Tensor], grams: list[Tensor], scale: float) -> Tensor:
    """(sum_i W_i G_i) (sum_i G_i)^-1 [out, in]: the one matrix nearest to every model's own outputs on its own rows.

    Off-diagonal entries of each gram matrix [in, in] are first multiplied by `scale` in 0..1 (0: a mean weighted by
    each input's energy). Directions that no model's rows span take the plain mean.
    """
    shrunk = [scale * g.double() + (1 - scale) * torch.diag(g.double().diagonal()) for g in grams]
    total = torch.stack(shrunk).sum(0)
    mean = torch.stack([w.double() for w in weights]).mean(0)
    left = torch.stack([(w.double() - mean) @ g for w, g in zip(weights, shrunk, strict=True)]).sum(0)
    return mean + left @ torch.linalg.pinv(total, rtol=RANK, hermitian=True)
