"""The route of a server: adapters that stay while rows come and go, and steps of packed tokens [1, T].

    lanes.add("a1", deltas)                          # site name -> delta, hung on the sites
    with lanes.turn(names, lengths):                 # whose each run of tokens is; None: the base's
        model(tokens [1, T], ...)

`Route` stacks the adapters of a batch anew for each forward, which costs a copy of them all. Here every low-rank
adapter has a place in stacks that stay: [C, r, in] and [C, out, r] at each site, one pair of stacks for each power of
two that ranks are padded to. Rows of one token whose adapters lie side by side there are two batched products without
any copy; runs of tokens with one adapter are two plain products. Other forms go adapter by adapter, as in `Route`.
Without gradients: training has `routed`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tunewright.models import deltas as forms
from tunewright.models.adapted import Adapted
from tunewright.models.routing import Route
from tunewright.models.sites import Site

PAPERS = ("s-lora",)

FEW = 3
"""Runs of fewer single rows than this are multiplied one by one."""
Pair = tuple[Tensor, Tensor]
"""(A [r, in], scaled B [out, r]) of a site's low-rank change."""


def rank_of(deltas: Mapping[str, forms.Delta]) -> int:
    """The power of two that an adapter's ranks are padded to; 0 where it is not low-rank alone."""
    if not deltas or not all(isinstance(d, forms.LowRank) for d in deltas.values()):
        return 0
    largest = max(len(d.pair()[0]) for d in deltas.values() if isinstance(d, forms.LowRank))
    return 1 << (largest - 1).bit_length()


@dataclass
class _Bucket:
    """Adapters of one padded rank: their places, and by module stacks with room for `size` of them."""

    places: list[str | None] = field(default_factory=list)
    stacks: dict[int, Pair] = field(default_factory=dict)
    size: int = 0

    def grow(self, size: int) -> None:
        """Room for so many adapters in every stack."""
        for key, pair in self.stacks.items():
            new = tuple(t.new_zeros(size, *t.shape[1:]) for t in pair)
            for old, t in zip(pair, new, strict=True):
                t[: self.size] = old
            self.stacks[key] = new[0], new[1]
        self.size = size


@dataclass(frozen=True)
class _Run:
    """Tokens start..end of a step; `names` one of them each where they are `single`, else the one that all have."""

    start: int
    end: int
    names: tuple[str, ...]
    rank: int = 0
    place: int = 0

    @property
    def batched(self) -> bool:
        return len(self.names) > 1


class Lanes(Route):
    """Adapters on a model by name, and the step that the model is in."""

    def __init__(self, adapted: Adapted):
        super().__init__([], None)
        self.adapted = adapted
        self._sites: dict[str, Site] = {s.name: s for s in adapted.structure.every_site}
        self._buckets: dict[int, _Bucket] = {}
        self._held: dict[str, tuple[int, int]] = {}
        self._where: dict[str, tuple[str, ...]] = {}
        self._pairs: dict[tuple[int, str], Pair] = {}
        self._runs: list[_Run] = []
        self._foreign: list[str] = []  # names in the step whose adapters are not low-rank alone

    def __contains__(self, name: str) -> bool:
        return name in self._where

    def order(self, name: str | None) -> tuple[int, int]:
        """Rows in this order have adapters that lie side by side next to each other; those of the base come last."""
        return self._held.get(name or "", (1 << 30, 0))

    def add(self, name: str, deltas: Mapping[str, forms.Delta]) -> None:
        """Hang an adapter on the sites. MethodError where a form cannot take its site."""
        rank = rank_of(deltas)
        hung = []
        try:
            for site, delta in deltas.items():
                delta.active = False  # outside of steps the model is the base
                forms.attach(self._sites[site], name, delta)
                hung.append(site)
        except BaseException:
            for site in hung:
                forms.detach(self._sites[site], name)
            raise
        self._where[name] = tuple(deltas)
        if not rank:
            return
        for site, delta in deltas.items():
            assert isinstance(delta, forms.LowRank)
            dtype = self._sites[site].weight.dtype
            A, B = (t.detach() for t in delta.pair())
            pair = A.to(dtype), (B * (delta.scale * delta.strength)).to(dtype)
            self._pairs[id(self._sites[site].module), name] = pair
        self._held[name] = (rank, self._place(rank, name))

    def _place(self, rank: int, name: str) -> int:
        bucket = self._buckets.setdefault(rank, _Bucket())
        if None not in bucket.places:
            bucket.places.append(None)
        place = bucket.places.index(None)
        bucket.places[place] = name
        if place >= bucket.size:
            bucket.grow(max(place + 1, 2 * bucket.size))
        for site in self._where[name]:
            key = id(self._sites[site].module)
            pair = self._pairs[key, name]
            if key not in bucket.stacks:
                A, B = pair
                bucket.stacks[key] = (
                    A.new_zeros(bucket.size, rank, A.shape[1]),
                    B.new_zeros(bucket.size, len(B), rank),
                )
            for stack, part in zip(bucket.stacks[key], pair, strict=True):
                stack[place, : part.shape[0], : part.shape[1]] = part
        return place

    def remove(self, name: str) -> None:
        """Take an adapter from the sites."""
        rank, place = self._held.pop(name, (0, 0))
        for site in self._where.pop(name):
            module: Any = self._sites[site].module
            self._pairs.pop((id(module), name), None)
            if rank:
                for stack in self._buckets[rank].stacks[id(module)]:
                    stack[place].zero_()
            forms.detach(self._sites[site], name)
        if rank:
            bucket = self._buckets[rank]
            bucket.places[place] = None
            if not any(bucket.places):
                del self._buckets[rank]

    @contextmanager
    def turn(self, names: Sequence[str | None], lengths: Sequence[int]) -> Iterator[None]:
        """Inside, a forward's tokens [1, T] are runs of `lengths`, with the adapters `names`."""
        self._runs = self._runs_of(names, lengths)
        others = self._foreign = [n for n in dict.fromkeys(names) if n is not None and n not in self._held]
        self.names, self._stacks = list(names), {}
        if others:
            device = self.adapted.device
            cu = torch.tensor([0, *lengths], device=device).cumsum(0).to(torch.int32)
            super().__init__(names, cu)
        # all that have deltas: one that is being trained beside the rows must not speak in them
        modules: list[Any] = [s.module for s in self._sites.values() if hasattr(s.module, "delta")]
        # `Route` passes over deltas that are switched off
        switched = [m.delta[n] for n in set(names) if others for m in modules if n is not None and n in m.delta]
        for m in modules:
            m.__dict__["tunewright_route"] = self
        for d in switched:
            d.active = True
        try:
            yield
        finally:
            for m in modules:
                del m.__dict__["tunewright_route"]
            for d in switched:
                d.active = False

    def _runs_of(self, names: Sequence[str | None], lengths: Sequence[int]) -> list[_Run]:
        """Runs of tokens: neighbours with one adapter together; single rows whose adapters lie side by side, too."""
        runs: list[_Run] = []
        at = 0
        for name, n in zip(names, lengths, strict=True):
            if name in self._held:
                assert name is not None
                rank, place = self._held[name]
                last = runs[-1] if runs and runs[-1].end == at else None
                if last is not None and last.names == (name,):
                    runs[-1] = _Run(last.start, at + n, (name,), rank, place)
                else:
                    runs.append(_Run(at, at + n, (name,), rank, place))
            at += n
        return list(_side_by_side(runs))

    def linear(self, module: Any, x: Tensor, base: type[nn.Module]) -> Tensor:
        if any(n in module.delta for n in self._foreign):
            return self._by_name(x, x, lambda rows, _, live: forms.with_deltas(module, base, live, rows), module)
        y: Tensor = base.forward(module, x)
        rows, out, key = x[0], y[0], id(module)
        for run in self._runs:
            if run.batched:
                stacks = self._buckets[run.rank].stacks
                if key in stacks:
                    A, B = (t[run.place : run.place + len(run.names)] for t in stacks[key])
                    # both products read their stack along its last dimension, and the first is told by strides that
                    # its vectors lie in rows: other layouts of the same numbers take two to five times as long
                    low = torch.bmm(A, rows[run.start : run.end, None].transpose(1, 2))  # [n, r, 1]
                    out[run.start : run.end] += torch.bmm(low.transpose(1, 2), B.transpose(1, 2))[:, 0]
            else:
                pair = self._pairs.get((key, run.names[0]))
                if pair is not None:
                    out[run.start : run.end].addmm_(rows[run.start : run.end] @ pair[0].t(), pair[1].t())
        return y


def _side_by_side(runs: Sequence[_Run]) -> Iterator[_Run]:
    """Runs of one token each whose adapters have neighbouring places, as one."""
    i = 0
    while i < len(runs):
        k = i
        while k < len(runs) and runs[k].end - runs[k].start == 1 and _follows(runs[i], runs[k], k - i):
            k += 1
        if k - i >= FEW:
            names = tuple(r.names[0] for r in runs[i:k])
            yield _Run(runs[i].start, runs[k - 1].end, names, runs[i].rank, runs[i].place)
            i = k
        else:
            yield runs[i]
            i += 1


def _follows(first: _Run, run: _Run, n: int) -> bool:
    return run.rank == first.rank and run.place == first.place + n and run.start == first.start + n
