"""Many deltas on one base: each row of a batch has its own, in one base forward and without a loop over adapters.

    with routed(adapted, ["support", None, "sales"], cu_seqlens):
        model(...)                       # row 0 with "support", row 1 the base, row 2 with "sales"

Deltas hang on their sites under the adapters' names. Those of one form are stacked (ranks padded with zeros) and each
row gathers its own: two batched products a site, however many adapters there are. Where a form cannot be stacked (it
edits the input, or reads what its rows are), a site's rows go adapter by adapter. Training and serving many adapters
are this same path. Rows agree with being alone to rounding (matrix products round differently by batch size), not bit
for bit. Shapes: R rows, L the longest row, K adapters, r the largest rank, n the most entries of a sparse delta.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tunewright.errors import MethodError, did_you_mean
from tunewright.models import deltas as forms
from tunewright.models.adapted import Adapted
from tunewright.models.context import PADDING, Present, reading, told

Apply = Callable[[Tensor, Tensor], Tensor]


def low_rank_stack(deltas: Sequence[forms.LowRank | forms.SharedProjections]) -> Apply:
    """Batched s B A: x [R, L, in], which [R] in 0..K-1 -> [R, L, out]."""
    pairs = [d.pair() for d in deltas]
    rank = max(a.shape[0] for a, _ in pairs)
    pad = torch.nn.functional.pad
    A = torch.stack([pad(a, (0, 0, 0, rank - a.shape[0])) for a, _ in pairs])
    B = torch.stack(
        [pad(b * (d.scale * d.strength), (0, rank - b.shape[1])) for d, (_, b) in zip(deltas, pairs, strict=True)]
    )
    return lambda x, which: x @ A[which].transpose(1, 2) @ B[which].transpose(1, 2)


def sparse_stack(deltas: Sequence[forms.Sparse]) -> Apply:
    """Batched sparse products: x [R, L, in], which [R] -> [R, L, out], never making a dense change."""
    out_features, in_features = deltas[0].shape
    most = max(d.indices.numel() for d in deltas)
    pad = torch.nn.functional.pad
    places = torch.stack([pad(d.indices, (0, most - d.indices.numel())) for d in deltas])
    values = torch.stack([pad(d.values * d.strength, (0, most - d.indices.numel())) for d in deltas])

    def apply(x: Tensor, which: Tensor) -> Tensor:
        R, L, _ = x.shape
        at = places[which]
        columns = (at % in_features)[:, None].expand(R, L, most)
        rows = (at // in_features)[:, None].expand(R, L, most)
        products = x.gather(2, columns) * values[which][:, None]
        return x.new_zeros(R, L, out_features).scatter_add(2, rows, products.to(x.dtype))

    return apply


STACKS: dict[type[forms.Delta], Callable[[Any], Apply]] = {
    forms.LowRank: low_rank_stack,
    forms.GatedLowRank: low_rank_stack,
    forms.LowRankFixedA: low_rank_stack,
    forms.SharedProjections: low_rank_stack,
    forms.Sparse: sparse_stack,
}


class Route:
    """Which adapter each row of the present batch has, and how packed tokens [1, T] are laid out as rows [R, L]."""

    def __init__(self, names: Sequence[str | None], cu_seqlens: Tensor | None):
        self.names = list(names)
        self.places: Tensor | None = None
        if cu_seqlens is not None:
            lengths = cu_seqlens.diff().long()
            columns = torch.arange(int(lengths.max()), device=cu_seqlens.device)
            self.inside = columns < lengths[:, None]
            self.places = (cu_seqlens[:-1, None].long() + columns).clamp(max=int(cu_seqlens[-1]) - 1)
        self._stacks: dict[int, list[tuple[Tensor, Tensor, Apply]]] = {}
        self._notes: dict[str | None, dict[str, list[Tensor]]] = {}

    def linear(self, module: Any, x: Tensor, base: type[nn.Module]) -> Tensor:
        """A linear site's output [..., out] for its input x, each row with its own delta."""
        if self._stackable(module):
            y: Tensor = base.forward(module, x)
            return y + self.change(module, x)
        return self._by_name(x, x, lambda rows, _, live: forms.with_deltas(module, base, live, rows), module)

    def block(self, module: Any, x: Tensor, y: Tensor) -> Tensor:
        """A block's output for its input x and its own output y, both [..., D], each row with its own delta."""

        def apply(rows: Tensor, out: Tensor, live: list[forms.Delta]) -> Tensor:
            for delta in live:
                out = out if delta.edits_input else delta(rows, out)
            return out

        return self._by_name(x, y, apply, module)

    def entering(self, module: Any, x: Tensor) -> Tensor:
        """What a block reads in the place of x [..., D], each row as its own delta has it."""
        return self._by_name(x, x, lambda rows, _, live: forms.edited(rows, live), module)

    def _stackable(self, module: Any) -> bool:
        return all(type(module.delta[n]) in STACKS for n in self.names if n is not None and n in module.delta)

    def _by_name(self, x: Tensor, y: Tensor, apply: Callable[..., Tensor], module: Any) -> Tensor:
        """`apply(x, y, deltas)` to the rows of each adapter together; their tokens lie where the batch's do."""
        rows, outs = (t if self.places is None else t[0][self.places] for t in (x, y))
        self._check(len(rows))
        total: Tensor | None = None
        for name in dict.fromkeys(self.names):
            members = torch.tensor([i for i, n in enumerate(self.names) if n == name], device=x.device)
            live = [d for n, d in module.delta.items() if n == name and d.active and d.strength != 0.0]
            now = self._present(members, rows.shape[1])
            if now is not None:  # what a delta notes in one layer is read in others, where the rows are picked again
                now.notes = self._notes.setdefault(name, {})
            with reading(now):
                part = apply(rows[members], outs[members], live)
            total = part.new_zeros(len(self.names), *part.shape[1:]) if total is None else total
            total = total.index_copy(0, members, part)
        assert total is not None
        return total if self.places is None else total[self.inside][None]

    def _present(self, members: Tensor, longest: int) -> Present | None:
        """What the rows of one adapter are, as far as anything was said of the batch."""
        now = told()
        if now is None:
            return None
        row = torch.arange(len(members), device=members.device)[:, None].expand(-1, longest)
        if self.places is not None:
            place = torch.arange(longest, device=members.device).expand(len(members), -1)
            return Present(now.rows.select(members), row, place.masked_fill(~self.inside[members], PADDING))
        if now.place is None:
            return Present(now.rows.select(members))
        return Present(now.rows.select(members), row, now.place[members])

    def _check(self, rows: int) -> None:
        if rows != len(self.names):
            raise MethodError(
                f"the batch has {rows} rows and {len(self.names)} adapters are named",
                remedy="name one adapter (or None) a row",
            )

    def change(self, module: Any, x: Tensor) -> Tensor:
        """[..., out] what the rows' own deltas add, for a site's input x [1, T, in] or [R, L, in]."""
        rows = x if self.places is None else x[0][self.places]
        self._check(len(rows))
        total = None
        for members, which, apply in self._of(module):
            part = apply(rows if len(members) == len(self.names) else rows[members], which)
            if len(members) < len(self.names):
                part = part.new_zeros(len(self.names), *part.shape[1:]).index_copy(0, members, part)
            total = part if total is None else total + part
        if total is None:
            return x.new_zeros(*x.shape[:-1], 1)
        return total if self.places is None else total[self.inside][None]

    def _of(self, module: Any) -> list[tuple[Tensor, Tensor, Apply]]:
        """For each form on a site: the rows that have one, which of the stack each takes, and the stack.

        Made once per batch; while gradients are wanted the stacks are part of the graph, so the route serves one
        forward.
        """
        if id(module) not in self._stacks:
            device = module.weight.device
            by_form: dict[Callable[[Any], Apply], dict[str, Any]] = {}
            for name in dict.fromkeys(n for n in self.names if n is not None and n in module.delta):
                delta = module.delta[name]
                by_form.setdefault(STACKS[type(delta)], {})[name] = delta
            entries = []
            for stack, deltas in by_form.items():
                order = {n: i for i, n in enumerate(deltas)}
                members = [i for i, n in enumerate(self.names) if n in order]
                which = torch.tensor([order[self.names[i]] for i in members], device=device)  # type: ignore[index]
                entries.append((torch.tensor(members, device=device), which, stack(list(deltas.values()))))
            self._stacks[id(module)] = entries
        return self._stacks[id(module)]


@contextmanager
def routed(adapted: Adapted, names: Sequence[str | None], cu_seqlens: Tensor | None = None) -> Iterator[None]:
    """Inside, row i of every forward has the delta `names[i]` (None: the base) on every site that has one of that name.

    `cu_seqlens` [R+1] for packed batches; without it inputs are [R, L]. MethodError for a name that no site has, or a
    site outside blocks (a head sees only some positions).
    """
    sites = [s for s in adapted.structure.every_site if forms.deltas_of(s)]
    known = {n for s in sites for n in forms.deltas_of(s)}
    for name in names:
        if name is not None and name not in known:
            raise MethodError(f"no adapter is named '{name}'", remedy=did_you_mean(name, known))
    outside = [s.name for s in sites if s.block is None]
    if outside:
        raise MethodError(
            f"'{outside[0]}' lies outside the blocks and cannot be routed by row",
            remedy="use adapters on sites inside blocks",
        )
    route = Route(names, cu_seqlens)
    modules: list[Any] = [s.module for s in sites]
    for m in modules:
        m.tunewright_route = route
    try:
        yield
    finally:
        for m in modules:
            del m.tunewright_route
