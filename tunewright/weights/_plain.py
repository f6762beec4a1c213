"""The engine's own merges in plain numpy, chunk by chunk: what the compiled kernels in `_kernels.py` give bit for bit.

`rows` [R, m] holds one chunk of every model's tensor (with a base: it is row 0), as uint16 (the bits of bfloat16) or
float32. All arithmetic is float32, models in order, one rounding an operation. `write` functions return how many values
cannot be stored as finite numbers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.uint16] | NDArray[np.float32]
BINS = 1 << 16
SIGN = np.uint32(0x7FFFFFFF)
TOO_LARGE = np.uint32(0x7F7F8000)  # what rounds to infinity in bfloat16, infinities and NaN
LANES = 16


def widen(row: Rows) -> NDArray[np.float32]:
    """bfloat16 bits or float32 as float32."""
    if row.dtype == np.float32:
        return row  # type: ignore[return-value]
    widened: NDArray[np.float32] = (row.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return widened


def store(values: NDArray[np.float32], out: Rows) -> int:
    """Round to nearest even into bfloat16 bits, or copy float32; return how many are not finite."""
    bits = values.view(np.uint32)
    magnitude = bits & SIGN
    if out.dtype == np.float32:
        out[:] = values
        return int((magnitude >= np.uint32(0x7F800000)).sum())
    out[:] = ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)
    return int((magnitude >= TOO_LARGE).sum())


def linear(rows: Rows, weights: NDArray[np.float32], total: np.float32, out: Rows) -> int:
    """(w0 x0 + w1 x1 + ...) / total; total 1 divides nothing."""
    with np.errstate(all="ignore"):
        acc = weights[0] * widen(rows[0])
        for j in range(1, len(rows)):
            acc = acc + weights[j] * widen(rows[j])
        if total != 1:
            acc = acc / total
    return store(acc, out)


def high(rows: Rows, counts: NDArray[np.int64]) -> None:
    """Add to counts [K, 65536] the upper 16 bits of |x_j - base|'s 31."""
    base = widen(rows[0])
    for j in range(1, len(rows)):
        magnitude = (widen(rows[j]) - base).view(np.uint32) & SIGN
        counts[j - 1] += np.bincount(magnitude >> np.uint32(15), minlength=BINS)


def low(rows: Rows, bins: NDArray[np.uint32], counts: NDArray[np.int64]) -> None:
    """Add to counts [K, Q, 32768] the lower 15 bits of those whose upper bits are bins [K, Q]."""
    base = widen(rows[0])
    for j in range(1, len(rows)):
        magnitude = (widen(rows[j]) - base).view(np.uint32) & SIGN
        for q in range(bins.shape[1]):
            inside = magnitude[(magnitude >> np.uint32(15)) == bins[j - 1, q]]
            counts[j - 1, q] += np.bincount(inside & np.uint32(0x7FFF), minlength=1 << 15)


def between(
    rows: Rows,
    wanted: NDArray[np.int64],
    counts: NDArray[np.int64],
    filled: NDArray[np.int64],
    found: NDArray[np.uint32],
) -> bool:
    """For each (model, a, z) of wanted [P, 3]: add to counts [P, 3] how many magnitudes are < a, <= a and <= z; gather
    those strictly between in found [P, room]. False where they do not fit.
    """
    base = widen(rows[0])
    for p, (j, a, z) in enumerate(wanted):
        magnitude = (widen(rows[j + 1]) - base).view(np.uint32) & SIGN
        counts[p] += [int((magnitude < a).sum()), int((magnitude <= a).sum()), int((magnitude <= z).sum())]
        inside = magnitude[(magnitude > a) & (magnitude < z)]
        if filled[p] + len(inside) > found.shape[1]:
            return False
        found[p, filled[p] : filled[p] + len(inside)] = inside
        filled[p] += len(inside)
    return True


def task_vectors(
    rows: Rows,
    bounds: NDArray[np.uint32],
    weights: NDArray[np.float32],
    elect: bool,
    total: np.float32,
    scale: np.float32,
    out: Rows,
) -> int:
    """base + scale x sum_j w_j d_j / total, d_j = x_j - base where bounds[j, 0] <= |d_j| <= bounds[j, 1] (as bits),
    else 0.

    With `elect` only what has the sign of the sum takes part; a total of 0 then divides by the weights that take part.
    A change that is not finite counts as a result that is not, whether or not it stays.
    """
    base, bad = widen(rows[0]), 0
    with np.errstate(all="ignore"):
        changes = []
        for j in range(1, len(rows)):
            d = widen(rows[j]) - base
            magnitude = d.view(np.uint32) & SIGN
            bad += int((magnitude >= np.uint32(0x7F800000)).sum())
            inside = (magnitude >= bounds[j - 1, 0]) & (magnitude <= bounds[j - 1, 1])
            changes.append(weights[j - 1] * np.where(inside, d, np.float32(0)))
        mixed = changes[0]
        for v in changes[1:]:
            mixed = mixed + v
        if elect:
            up = mixed >= 0
            mixed, parts = np.zeros_like(base), np.zeros_like(base)
            for j, v in enumerate(changes):
                agree = np.where(up, v > 0, v < 0)
                mixed = mixed + np.where(agree, v, np.float32(0))
                parts = parts + np.where(agree, weights[j], np.float32(0))
            if total == 0:
                mixed = mixed / np.where(np.abs(parts) < np.float32(1e-8), np.float32(1), parts)
        if total not in (0, 1):
            mixed = mixed / total
        if scale != 1:
            mixed = scale * mixed
        mixed = base + mixed
    return bad + store(mixed, out)


def dots(rows: Rows, sums: NDArray[np.float64]) -> None:
    """Add to sums [3, 16] the products a a, b b and a b of rows 0 and 1 in float64, value i into lane i mod 16, in
    order.
    """
    a, b = (widen(r).astype(np.float64) for r in rows[:2])
    for k, product in enumerate((a * a, b * b, a * b)):
        whole = len(product) // LANES * LANES
        for part in (product[:whole].reshape(-1, LANES), product[whole:][None]):
            if part.size:
                lanes = sums[k, : part.shape[1]]
                lanes[:] = np.add.reduce(np.concatenate([lanes[None], part]), axis=0)
