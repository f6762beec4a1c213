"""A pool of low-rank changes on every layer, of which a row gets the one whose key is most alike to what the first
block reads of it.

    q(row)   mean over the row's tokens of what enters the block that carries the keys                    [R, D]
    c(row)   argmax over the pool of cos(q, k_m);  while training ((cos + 1) / 2) w_m in its place          [R]
    layer    y + s B_c A_c x,   A [M, r, in], B [M, out, r]

`Keys` hangs on a block, comes before all that lies in it, and says the choice in the forward's notes; a `Modulated` on
each layer reads it there. R rows, M entries of the pool, [B, L, ..] a layer's input.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tunewright.errors import MethodError
from tunewright.models.context import PADDING, present
from tunewright.models.delta_forms import Delta
from tunewright.models.sites import Site

CHOSEN = "pool_entry"
"""Note of a forward: which entry of the pool each row got, [R] int64."""


class Keys(Delta):
    """Chooses an entry of the pool for each row by keys [M, D]; the block's input stays as it is.

    Buffers: `counts` [M], rows that were given each entry while it trained; `weights` [M], w above: what a choice is
    multiplied with while training. `seen`: by row id the query [D] and the choice of the present step, for the method
    that pulls keys; it is no part of what is saved.
    """

    form = "pool-keys"
    foldable: ClassVar[bool] = False
    edits_input: ClassVar[bool] = True
    reads_rows: ClassVar[bool] = True
    every_token: ClassVar[bool] = True
    site_kinds: ClassVar[tuple[str, ...]] = ("block",)

    counts: Tensor
    weights: Tensor

    def __init__(self, keys: Tensor, counts: Tensor, weights: Tensor):
        super().__init__()
        self.keys = nn.Parameter(keys)
        self.register_buffer("counts", counts)
        self.register_buffer("weights", weights)
        self.seen: dict[str, tuple[Tensor, int]] = {}

    def before(self, x: Tensor) -> Tensor:
        if x.shape[-1] != self.keys.shape[1]:
            raise MethodError(
                f"keys of width {self.keys.shape[1]} are compared with states of shape {list(x.shape)}",
                where="l2m",
                remedy="use a model whose blocks read tokens",
            )
        now = present()
        row, place = now.at(x)
        rows, real = int(row.max()) + 1, place != PADDING
        learning = self.training and torch.is_grad_enabled()
        with torch.no_grad():
            query = _means(x[real].float(), row[real], rows)
            alike = F.cosine_similarity(query[:, None], self.keys.float()[None], dim=-1)
            chosen = (((alike + 1) / 2) * self.weights if learning else alike).argmax(-1)
        if learning:
            ids = now.rows.ids or tuple(str(i) for i in range(rows))
            self.seen |= {i: (q, int(c)) for i, q, c in zip(ids, query, chosen, strict=True)}
        now.note(CHOSEN, chosen)
        return x

    def settings(self) -> dict[str, Any]:
        return {"entries": len(self.keys), "width": self.keys.shape[1]}

    @classmethod
    def rebuild(cls, settings: dict[str, Any], site: Site) -> Keys:
        entries = settings["entries"]
        return cls(torch.zeros(entries, settings["width"]), torch.zeros(entries), torch.ones(entries))


def _means(x: Tensor, row: Tensor, rows: int) -> Tensor:
    """[rows, D]: each row's mean of its tokens' x [N, D]; `row` [N] says whose each is."""
    total = x.new_zeros(rows, x.shape[-1]).index_add(0, row, x)
    return total / torch.bincount(row, minlength=rows).clamp_min(1)[:, None]


class Modulated(Delta):
    """y + s B_c A_c x for the entry c that the row was given; A [M, r, in] and B [M, out, r] train, the scale s not."""

    form = "modulated"
    foldable: ClassVar[bool] = False
    reads_rows: ClassVar[bool] = True

    def __init__(self, A: Tensor, B: Tensor, scale: float):
        super().__init__()
        self.A, self.B, self.scale = nn.Parameter(A), nn.Parameter(B), float(scale)

    @property
    def entries(self) -> int:
        """A row is multiplied with one entry of the pool alone."""
        return (self.A.numel() + self.B.numel()) // len(self.A)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        now = present()
        if CHOSEN not in now.notes:
            raise MethodError(
                "a layer with a pool of changes runs, and none was chosen before it",
                remedy="switch the keys and the pool on and off together",
            )
        chosen = now.notes[CHOSEN][-1].to(x.device)
        row, _ = now.at(x)
        if now.row is None and len(x) != len(chosen):
            raise MethodError(
                f"a layer is given {len(x)} parts of {len(chosen)} rows, and which row each is of is not known",
                where="target_modules",
                remedy="use a model whose layers see whole rows",
            )
        here, change = chosen[row], y.new_zeros(y.shape)
        for c in chosen.unique().tolist():
            low = F.linear(x[here == c].to(self.A.dtype), self.A[c])
            change[here == c] = F.linear(low, self.B[c]).to(y.dtype)
        return y + change * (self.scale * self.strength)

    def settings(self) -> dict[str, Any]:
        return {"entries": len(self.A), "rank": self.A.shape[1], "scale": self.scale}

    @classmethod
    def rebuild(cls, settings: dict[str, Any], site: Site) -> Modulated:
        m, r = settings["entries"], settings["rank"]
        return cls(torch.zeros(m, r, site.in_features), torch.zeros(m, site.out_features, r), settings["scale"])
