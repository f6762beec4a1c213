"""Merges that need no torch: linear, task arithmetic, TIES, breadcrumbs and SLERP on ranges of values in reused
buffers.

What such a merge declares stands in `merge/_fields.py`, which its class derives from, so that planning imports neither
torch nor the class. Anything a row here does not cover goes through the class.
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tunewright.errors import MethodError
from tunewright.weights import _plain
from tunewright.weights.merge import _fields
from tunewright.weights.parameters import MergeFields

BUDGET = 32 * 2**20  # bytes of models' values that a thread holds
GATHERED = 4 * 2**20  # magnitudes that a thread gathers at most
SAMPLE = 1 << 14  # magnitudes that a first guess of an order statistic is made from
SMALL = 1 << 16  # values below which an order statistic is found by partition
ALL, NONE = (0, 0xFFFFFFFF), (1, 0)
Fill = Callable[[int, NDArray[Any]], None]


@dataclass(frozen=True)
class Fast:
    """A method's kernel. `fields`: what the method declares; `only`: values by field that the kernel covers."""

    kernel: Literal["linear", "task vectors", "slerp"]
    fields: type[MergeFields]
    trims: Literal["none", "small", "both"] = "none"
    only: dict[str, Any] = field(default_factory=dict)

    @property
    def elects(self) -> bool:
        return issubclass(self.fields, _fields.TaskVectorFields) and self.fields.election


_THIN = {"over": "tensor", "rescale": False}
TABLE: dict[str, Fast] = {
    "linear": Fast("linear", _fields.LinearFields),
    "task-arithmetic": Fast("task vectors", _fields.TaskVectorFields),
    "ties": Fast("task vectors", _fields.TiesFields, trims="small", only=_THIN),
    "model-breadcrumbs": Fast("task vectors", _fields.ModelBreadcrumbsFields, trims="both", only=_THIN),
    "breadcrumbs-ties": Fast("task vectors", _fields.BreadcrumbsTiesFields, trims="both", only=_THIN),
    "slerp": Fast("slerp", _fields.SlerpFields),
}


def kernels() -> ModuleType:
    """The compiled kernels, or the plain ones where numba is not there."""
    try:
        from tunewright.weights import _kernels
    except ImportError:
        return _plain
    return _kernels


def import_lean() -> None:
    """Import the compiler of the kernels without scipy, most of its start-up: for a process that merges and ends.

    Numba takes scipy for linear algebra, which no kernel uses; it lacks it in this process afterwards. Where one of
    them is imported already, nothing is done.
    """
    if "numba" in sys.modules or "scipy" in sys.modules:
        return
    sys.modules["scipy"] = None  # type: ignore[assignment]
    try:
        kernels()
        with suppress(ImportError):  # where numba is not there the plain kernels are
            importlib.import_module("numba.np.arraymath")  # else imported, with scipy, when the first kernel is called
    finally:
        del sys.modules["scipy"]


class Workspace:
    """One thread's buffers, made once and used for every tensor."""

    def __init__(self) -> None:
        self._held = np.zeros(BUDGET, np.uint8)
        self._out = np.zeros(0, np.uint8)
        self._counts = np.zeros(0, np.int64)
        self._gathered = np.zeros(0, np.uint32)

    def rows(self, count: int, width: int, kind: Any) -> NDArray[Any]:
        return self._held[: count * width * np.dtype(kind).itemsize].view(kind).reshape(count, width)

    def out(self, width: int, kind: Any) -> NDArray[Any]:
        size = width * np.dtype(kind).itemsize
        if len(self._out) < size:
            self._out = np.zeros(size, np.uint8)
        return self._out[:size].view(kind)

    def gathered(self, count: int, width: int) -> NDArray[np.uint32]:
        width = min(width, GATHERED // count)
        if len(self._gathered) < count * width:
            self._gathered = np.zeros(count * width, np.uint32)
        return self._gathered[: count * width].reshape(count, width)

    def counts(self, *shape: int) -> NDArray[np.int64]:
        size = math.prod(shape)
        if len(self._counts) < size:
            self._counts = np.zeros(size, np.int64)
        table = self._counts[:size].reshape(shape)
        table[:] = 0
        return table


class Ranges:
    """The ranges of one tensor, read into a room's rows: once where all of it fits, else anew at every pass."""

    def __init__(self, room: Workspace, fills: Sequence[Fill], count: int, kind: Any):
        self.room, self.fills, self.count, self.kind = room, fills, count, kind
        most = BUDGET // (len(fills) * np.dtype(kind).itemsize) // 4096 * 4096
        self.width = max(1, min(count, most))
        self._whole: NDArray[Any] | None = None

    def __iter__(self) -> Any:
        for start in range(0, self.count, self.width):
            if self._whole is not None:
                yield 0, self._whole
                return
            width = min(self.width, self.count - start)
            rows = self.room.rows(len(self.fills), width, self.kind)
            for fill, row in zip(self.fills, rows, strict=True):
                fill(start, row)
            if width == self.count:
                self._whole = rows
            yield start, rows


def run(
    method: str,
    own: Mapping[str, Any],
    each: Sequence[Mapping[str, Any]],
    room: Workspace,
    fills: Sequence[Fill],
    count: int,
    kinds: tuple[Any, Any],
    put: Callable[[int, NDArray[Any]], None],
    engine: ModuleType | None = None,
) -> int:
    """Merge one tensor of `count` values; `fills` read the base (where needed, first) and the models, `put` takes
    results.

    kinds: numpy types of what is read and written, uint16 for bfloat16. Returns how many results are not finite.
    """
    fast, engine = TABLE[method], engine or kernels()
    ranges, bad = Ranges(room, fills, count, kinds[0]), 0
    step = _step(method, fast, own, each, ranges, engine)
    for start, rows in ranges:
        out = room.out(rows.shape[1], kinds[1])
        bad += step(rows, out)
        put(start, out)
    return bad


def _step(
    method: str, fast: Fast, own: Mapping[str, Any], each: Sequence[Mapping[str, Any]], ranges: Ranges, engine: Any
) -> Callable[[Any, Any], int]:
    weights = np.array([e["weight"] for e in each] if fast.fields.per_model else [], np.float32)
    total = np.float32(0)
    for w in weights:
        total = np.float32(total + w)
    one = np.float32(1)
    if fast.kernel == "linear":
        if own["normalize"] and abs(total) < 1e-8:
            raise MethodError(
                f"the weights {weights.tolist()} sum to 0, so that there is no mean",
                where=f"{method}.weight",
                remedy="write normalize: false",
            )
        return lambda rows, out: engine.linear(rows, weights, total if own["normalize"] else one, out)
    if fast.kernel == "slerp":
        sums = np.zeros((3, _plain.LANES), np.float64)
        for _, rows in ranges:
            engine.dots(rows, sums)
        shares = np.array(arc_shares(own["t"], sums), np.float32)
        return lambda rows, out: engine.linear(rows, shares, one, out)
    bounds = _bounds(fast, each, ranges, engine)
    if not own["normalize"] or (not fast.elects and abs(total) < 1e-8):
        divisor = one
    else:
        divisor = np.float32(0) if fast.elects else total
    scale = np.float32(own["lambda_"])
    return lambda rows, out: engine.task_vectors(rows, bounds, weights, fast.elects, divisor, scale, out)


def arc_shares(t: float, sums: NDArray[np.float64]) -> tuple[float, float]:
    """Factors of both ends at t from the lanes of a a, b b and a b; the chord where |cos| > 0.9995."""
    aa, bb, ab = (math.fsum(lanes) for lanes in sums)
    lengths = [n if n > 1e-8 else 1.0 for n in (math.sqrt(aa), math.sqrt(bb))]
    cos = max(-1.0, min(1.0, ab / (lengths[0] * lengths[1])))
    if abs(cos) > 0.9995:
        return 1 - t, t
    angle = math.acos(cos)
    return math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)


def ranks_of(fast: Fast, own: Mapping[str, Any], n: int) -> tuple[int | None, int | None] | None:
    """Places, ascending from 0, of the least and the largest magnitude that stay; None: no limit; all None: nothing
    stays.
    """
    if fast.trims == "none":
        return None, None
    kept, top = int(own["density"] * n), 0
    if fast.trims == "small":
        kept = min(n, max(1, kept)) if own["density"] > 0 else 0
    else:
        top = min(int(own["gamma"] * n), n - kept)
    if not kept:
        return None
    return (n - top - kept if kept < n else None), (n - top - 1 if top else None)


def _bounds(fast: Fast, each: Sequence[Mapping[str, Any]], ranges: Ranges, engine: Any) -> NDArray[np.uint32]:
    """[models, 2] bits of the magnitudes between which a change stays."""
    n = ranges.count
    bounds = np.array([ALL] * len(each), np.uint32)
    wanted: list[tuple[int, int, int]] = []  # model, 0 lower or 1 upper, rank
    for j, own in enumerate(each):
        ranks = ranks_of(fast, own, n)
        if ranks is None:
            bounds[j] = NONE
            continue
        wanted += [(j, side, r) for side, r in enumerate(ranks) if r is not None]
    if wanted and n <= min(SMALL, ranges.width):
        ((_, rows),) = ranges
        base = _plain.widen(rows[0])
        for j, side, rank in wanted:
            magnitude = (_plain.widen(rows[j + 1]) - base).view(np.uint32) & _plain.SIGN
            bounds[j, side] = np.partition(magnitude, rank)[rank]
    elif wanted and not _by_sample(bounds, wanted, ranges, engine):
        _by_counting(bounds, wanted, ranges, engine)
    return bounds


def _by_sample(bounds: NDArray[np.uint32], wanted: Sequence[tuple[int, int, int]], ranges: Ranges, engine: Any) -> bool:
    """Exact order statistics from what lies between two magnitudes that a sample says enclose each.

    False where they do not after all, or too much lies between them: then nothing is found.
    """
    _, rows = next(iter(ranges))
    step = max(1, rows.shape[1] // SAMPLE)
    base = _plain.widen(rows[0, ::step].copy())
    asked = np.zeros((len(wanted), 3), np.int64)
    for p, (j, _, rank) in enumerate(wanted):
        sample = np.sort((_plain.widen(rows[j + 1, ::step].copy()) - base).view(np.uint32) & _plain.SIGN)
        middle, share = rank / ranges.count * len(sample), rank / ranges.count
        slack = 5 * math.sqrt(len(sample) * share * (1 - share)) + 2
        low, high = int(middle - slack), int(middle + slack) + 1
        asked[p] = j, sample[low] if low >= 0 else 0, sample[high] if high < len(sample) else _plain.SIGN
    counts, filled = np.zeros((len(wanted), 3), np.int64), np.zeros(len(wanted), np.int64)
    gathered = ranges.room.gathered(len(wanted), ranges.count // 8)
    for _, rows in ranges:
        if not engine.between(rows, asked, counts, filled, gathered):
            return False
    for p, (j, side, rank) in enumerate(wanted):
        less, equal, most = counts[p].tolist()
        if not less <= rank < most:
            return False
        if rank < equal:
            bounds[j, side] = asked[p, 1]
        elif rank - equal < filled[p]:
            part = gathered[p, : filled[p]]
            part.partition(rank - equal)
            bounds[j, side] = part[rank - equal]
        else:
            bounds[j, side] = asked[p, 2]
    return True


def _by_counting(
    bounds: NDArray[np.uint32], wanted: Sequence[tuple[int, int, int]], ranges: Ranges, engine: Any
) -> None:
    """Exact order statistics from counts of the upper bits, then of the lower bits inside the bins that hold them."""
    counts = ranges.room.counts(len(bounds), _plain.BINS)
    for _, rows in ranges:
        engine.high(rows, counts)
    sides = 1 + max(side for _, side, _ in wanted)
    bins = np.full((len(bounds), sides), _plain.BINS, np.uint32)
    inside = {}
    for j, side, rank in wanted:
        up_to = np.cumsum(counts[j])
        b = int(np.searchsorted(up_to, rank, side="right"))
        bins[j, side], inside[j, side] = b, rank - (int(up_to[b - 1]) if b else 0)
    fine = ranges.room.counts(len(bounds), sides, 1 << 15)
    for _, rows in ranges:
        engine.low(rows, bins, fine)
    for j, side, _ in wanted:
        place = int(np.searchsorted(np.cumsum(fine[j, side]), inside[j, side], side="right"))
        bounds[j, side] = (int(bins[j, side]) << 15) | place
