"""Changes of high rank made of small factors: entry by entry (Hadamard), or block by block (Kronecker)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tunewright.errors import MethodError
from tunewright.models.delta_forms import Delta
from tunewright.models.sites import Site


class Hadamard(Delta):
    """s (a1 b1) * (a2 b2), entry by entry: a1, a2 [out, r], b1, b2 [r, in]; its rank is up to r^2.

    Multiplied as a whole matrix, which the backward pass keeps.
    """

    form = "hadamard"
    compiles = True

    def __init__(self, a1: Tensor, b1: Tensor, a2: Tensor, b2: Tensor, scale: float):
        super().__init__()
        self.a1, self.b1, self.a2, self.b2 = (nn.Parameter(t) for t in (a1, b1, a2, b2))
        self.scale = float(scale)

    @property
    def rank(self) -> int:
        return len(self.b1)

    @property
    def entries(self) -> int:
        return len(self.a1) * self.b1.shape[1]

    def change(self) -> Tensor:
        return (self.a1 @ (self.b1 * self.scale)) * (self.a2 @ self.b2)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        change = (self.a1 @ (self.b1 * (self.scale * self.strength))) * (self.a2 @ self.b2)
        return y + F.linear(x.to(change.dtype), change).to(y.dtype)

    def settings(self) -> dict[str, Any]:
        return {"rank": self.rank, "scale": self.scale}

    @classmethod
    def rebuild(cls, settings: dict[str, Any], site: Site) -> Hadamard:
        r, out, inputs = settings["rank"], site.out_features, site.in_features
        a, b = torch.zeros(out, r), torch.zeros(r, inputs)
        return cls(a, b, a.clone(), b.clone(), settings["scale"])


def matrix_shape(factor: Tensor | tuple[Tensor, Tensor]) -> tuple[int, int]:
    """Rows and columns of a factor that is whole, or a pair whose product it is."""
    if isinstance(factor, Tensor):
        return factor.shape[0], factor.shape[1]
    return factor[0].shape[0], factor[1].shape[1]


class Kronecker(Delta):
    """s C (x) D: C [l, m] and D [k, n] with l k = out and m n = in, each whole or a product of two of rank r.

    The product is never made: y[l, k] = C X D^T with X [m, n] the input's entries row by row. `split`, `rank` and
    `both` say how the sides were split and which factors are products, as PEFT's settings have to say it.
    """

    form = "kronecker"
    compiles = True

    def __init__(
        self,
        C: Tensor | tuple[Tensor, Tensor],
        D: Tensor | tuple[Tensor, Tensor],
        scale: float,
        *,
        rank: int,
        split: int | None = None,
        both: bool = False,
    ):
        super().__init__()
        self.rank, self.split, self.both = rank, split, both
        for name, factor in (("C", C), ("D", D)):
            parts = {name: factor} if isinstance(factor, Tensor) else {f"{name}_a": factor[0], f"{name}_b": factor[1]}
            for n, t in parts.items():
                self.register_parameter(n, nn.Parameter(t))
        self.scale = float(scale)
        (self.rows, self.columns), (self.inner_rows, self.inner_columns) = matrix_shape(C), matrix_shape(D)

    def factor(self, name: str) -> Tensor:
        """C or D, whole."""
        parts = self._parameters
        whole: Any = parts[name] if name in parts else parts[f"{name}_a"] @ parts[f"{name}_b"]  # type: ignore[operator]
        return whole  # type: ignore[no-any-return]

    def change(self) -> Tensor:
        return torch.kron(self.factor("C") * self.scale, self.factor("D").contiguous())

    @property
    def entries(self) -> int:
        m, k = self.columns, self.inner_rows
        return m * self.inner_columns * k + k * m * self.rows

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        C, D = self.factor("C") * (self.scale * self.strength), self.factor("D")
        X = x.to(D.dtype).unflatten(-1, (self.columns, self.inner_columns))
        turned = F.linear(X, D).transpose(-1, -2)  # [.., k, m]
        return y + F.linear(turned, C).transpose(-1, -2).flatten(-2).to(y.dtype)

    def settings(self) -> dict[str, Any]:
        ranks = {n: p.shape[1] for n in ("C", "D") if (p := self._parameters.get(f"{n}_a")) is not None}
        shapes = {"C": [self.rows, self.columns], "D": [self.inner_rows, self.inner_columns]}
        made = {"rank": self.rank, "split": self.split, "both": self.both}
        return {"shapes": shapes, "ranks": ranks, "scale": self.scale, **made}

    @classmethod
    def rebuild(cls, settings: dict[str, Any], site: Site) -> Kronecker:
        made: dict[str, Any] = {}
        for name, (rows, columns) in settings["shapes"].items():
            r = settings["ranks"].get(name)
            pair = () if r is None else (torch.zeros(rows, r), torch.zeros(r, columns))
            made[name] = pair or torch.zeros(rows, columns)
        more = {k: settings[k] for k in ("rank", "split", "both")}
        delta = cls(made["C"], made["D"], settings["scale"], **more)
        sides = (delta.rows * delta.inner_rows, delta.columns * delta.inner_columns)
        if sides != (site.out_features, site.in_features):
            raise MethodError(f"a Kronecker product of {sides} does not fit '{site.name}'")
        return delta
