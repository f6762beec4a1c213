"""Forms of a change that is more than one of a weight: a bias, an edit of what enters a layer, one of some positions.

Shapes: [..., in] enters a linear site and [..., out] leaves it; D is the width of a block's output, r a rank.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tunewright.errors import MethodError
from tunewright.models.context import present
from tunewright.models.delta_forms import Delta
from tunewright.models.sites import Site


class Bias(Delta):
    """A vector [out] added to a linear layer's output: it folds into the layer's bias, which may be a new one."""

    form = "bias"

    def __init__(self, values: Tensor):
        super().__init__()
        self.values = nn.Parameter(values)

    def bias(self) -> Tensor:
        return self.values

    def folded(self, weight: Tensor, bias: Tensor | None, strength: float = 1.0) -> tuple[Tensor, Tensor | None]:
        added = self.values.to(weight.dtype) * strength
        return weight, added if bias is None else bias + added

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return y + (self.values * self.strength).to(y.dtype)

    def settings(self) -> dict[str, Any]:
        return {"size": self.values.numel()}

    @classmethod
    def rebuild(cls, settings: dict[str, Any], site: Site) -> Bias:
        return cls(torch.zeros(settings["size"]))


class InputEdit(Delta):
    """x <- (1 + s a) x + s v at `places` [k] of a linear layer's input: shift v [k], and scale a [k] or none.

    At an attention's output projection the input is its heads' outputs side by side, so that places are heads
    (`Site.head_places`). It folds: W diag(1 + a), and a bias that W v is added to.
    """

    form = "input-edit"
    compiles = True
    edits_input: ClassVar[bool] = True

    places: Tensor

    def __init__(self, places: Tensor, shift: Tensor, scale: Tensor | None = None):
        super().__init__()
        if places.shape != shift.shape or (scale is not None and scale.shape != shift.shape):
            raise MethodError(f"{places.numel()} places, and {shift.numel()} numbers to add there")
        self.register_buffer("places", places.to(torch.int64))
        self.shift = nn.Parameter(shift)
        self.scale = None if scale is None else nn.Parameter(scale)

    def _spread(self, values: Tensor, size: int) -> Tensor:
        """`values` [k] at their places among zeros [in]."""
        return values.new_zeros(size).scatter(0, self.places, values)

    def before(self, x: Tensor) -> Tensor:
        if self.scale is not None:
            x = x * (1.0 + self._spread(self.scale * self.strength, x.shape[-1])).to(x.dtype)
        return x + self._spread(self.shift * self.strength, x.shape[-1]).to(x.dtype)

    def folded(self, weight: Tensor, bias: Tensor | None, strength: float = 1.0) -> tuple[Tensor, Tensor | None]:
        added = weight[:, self.places] @ (self.shift.to(weight.dtype) * strength)
        if self.scale is not None:
            weight = weight * (1.0 + self._spread(self.scale.to(weight.dtype) * strength, weight.shape[1]))
        return weight, added if bias is None else bias + added

    def settings(self) -> dict[str, Any]:
        return {"places": self.places.numel(), "scaled": self.scale is not None}

    @classmethod
    def rebuild(cls, settings: dict[str, Any], site: Site) -> InputEdit:
        k = settings["places"]
        scale = torch.zeros(k) if settings["scaled"] else None
        return cls(torch.zeros(k, dtype=torch.int64), torch.zeros(k), scale)


class Bottleneck(Delta):
    """y <- y + s (U gelu(D y + b) + c) on a layer's output y: down D [a, out], up U [out, a], b [a], c [out]."""

    form = "bottleneck"
    compiles = True
    foldable: ClassVar[bool] = False
    site_kinds: ClassVar[tuple[str, ...]] = ("linear", "conv1d", "block")

    def __init__(self, down: Tensor, up: Tensor, down_bias: Tensor, up_bias: Tensor):
        super().__init__()
        self.down, self.up = nn.Parameter(down), nn.Parameter(up)
        self.down_bias, self.up_bias = nn.Parameter(down_bias), nn.Parameter(up_bias)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h = nn.functional.gelu(nn.functional.linear(y.to(self.down.dtype), self.down, self.down_bias))
        return y + (nn.functional.linear(h, self.up, self.up_bias) * self.strength).to(y.dtype)

    def settings(self) -> dict[str, Any]:
        return {"width": self.down.shape[0]}

    @classmethod
    def rebuild(cls, settings: dict[str, Any], site: Site) -> Bottleneck:
        a, d = settings["width"], site.out_features
        return cls(torch.zeros(a, d), torch.zeros(d, a), torch.zeros(a), torch.zeros(d))


class PositionEdit(Delta):
    """h <- h + s R^T (W h + b - R h) on a block's output h, at the first and the last tokens of each prompt.

    R [r, D] has orthonormal rows: the Q of a free matrix's QR, its signs such that rows that are orthonormal already
    stay. `rotation`, `source` [G, r, D] and `bias_of` [G, r] hold R, W and b: G is 1, or 2 where the first and the last
    tokens have their own. A prompt shorter than first + last gives each side at most half of it, rounded down. Tokens
    behind the prompt are left alone, so that nothing runs while an answer is written.
    """

    form = "position-edit"
    foldable: ClassVar[bool] = False
    reads_rows: ClassVar[bool] = True
    site_kinds: ClassVar[tuple[str, ...]] = ("block",)

    def __init__(self, rotation: Tensor, source: Tensor, bias: Tensor, *, first: int, last: int, dropout: float = 0.0):
        super().__init__()
        if rotation.shape != source.shape or bias.shape != rotation.shape[:2]:
            raise MethodError(
                f"R is {list(rotation.shape)}, W {list(source.shape)} and b {list(bias.shape)}, "
                "where [G, r, D] twice and [G, r] are needed"
            )
        self.rotation, self.source = nn.Parameter(rotation), nn.Parameter(source)
        self.bias_of = nn.Parameter(bias)
        self.first, self.last, self.dropout = first, last, dropout

    def rotations(self) -> Tensor:
        """R [G, r, D], rows orthonormal."""
        q, triangle = torch.linalg.qr(self.rotation.transpose(1, 2))
        return (q * triangle.diagonal(dim1=1, dim2=2).sign()[:, None]).transpose(1, 2)

    def groups(self, y: Tensor) -> Tensor:
        """[B, L] int64: 0 for the first tokens of a prompt, 1 for the last ones, -1 for all others."""
        now = present()
        _, place = now.at(y)
        length = now.asked(y)
        half = length // 2
        first = (place >= 0) & (place < half.clamp(max=self.first))
        last = (place < length) & (place >= length - half.clamp(max=self.last))
        return torch.where(first, 0, torch.where(last, 1, -1))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        groups = self.groups(y)
        at = (groups.flatten() >= 0).nonzero()[:, 0]
        if not len(at):
            return y
        which = groups.flatten()[at].clamp(max=len(self.rotation) - 1)
        R, states = self.rotations(), y.flatten(0, 1)
        h = states[at].to(R.dtype)
        edited = h
        for g in range(len(R)):
            inside = which == g
            low = nn.functional.linear(h, self.source[g] - R[g], self.bias_of[g])
            edited = torch.where(inside[:, None], h + self.strength * (low @ R[g]), edited)
        if self.dropout and self.training:
            edited = nn.functional.dropout(edited, self.dropout)
        return states.index_copy(0, at, edited.to(y.dtype)).view(y.shape)

    def settings(self) -> dict[str, Any]:
        g, r, _ = self.rotation.shape
        return {"groups": g, "rank": r, "first": self.first, "last": self.last, "dropout": self.dropout}

    @classmethod
    def rebuild(cls, settings: dict[str, Any], site: Site) -> PositionEdit:
        g, r = settings["groups"], settings["rank"]
        empty = torch.zeros(g, r, site.out_features)
        some = {k: settings[k] for k in ("first", "last", "dropout")}
        return cls(empty, empty.clone(), torch.zeros(g, r), **some)
