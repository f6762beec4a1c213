"""The merges of `_plain.py` compiled by numba, the same bits; each works on blocks that stay in the nearest cache.

Compiled once per machine and kept beside this file or in numba's own cache. They release the interpreter's lock.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from tunewright.weights._plain import BINS, LANES, SIGN, TOO_LARGE

BLOCK = 2048
_INFINITE = np.uint32(0x7F800000)
_HALF, _ONE, _SIXTEEN = np.uint32(0x7FFF), np.uint32(1), np.uint32(16)
_compiled: Any = njit(nogil=True, cache=True, error_model="numpy", boundscheck=False)


@_compiled
def _widen(row: Any, start: int, count: int, bits: Any, values: Any) -> None:
    part = row[start : start + count]
    if row.itemsize == 2:
        for i in range(count):
            bits[i] = np.uint32(part[i]) << _SIXTEEN
    else:
        for i in range(count):
            values[i] = part[i]


@_compiled
def _store(bits: Any, values: Any, count: int, out: Any, start: int) -> int:
    bad, part = np.uint32(0), out[start : start + count]
    if out.itemsize == 2:
        for i in range(count):
            u = bits[i]
            part[i] = np.uint16((u + _HALF + ((u >> _SIXTEEN) & _ONE)) >> _SIXTEEN)
            bad += np.uint32((u & SIGN) >= TOO_LARGE)
    else:
        for i in range(count):
            part[i] = values[i]
            bad += np.uint32((bits[i] & SIGN) >= _INFINITE)
    return int(bad)


@_compiled
def linear(rows: Any, weights: Any, total: Any, out: Any) -> int:
    """`_plain.linear`."""
    m, bad = rows.shape[1], 0
    bits, acc_bits = np.empty(BLOCK, np.uint32), np.empty(BLOCK, np.uint32)
    x, acc = bits.view(np.float32), acc_bits.view(np.float32)
    for s in range(0, m, BLOCK):
        count = min(BLOCK, m - s)
        for j in range(rows.shape[0]):
            _widen(rows[j], s, count, bits, x)
            w = weights[j]
            if j == 0:
                for i in range(count):
                    acc[i] = w * x[i]
            else:
                for i in range(count):
                    acc[i] = acc[i] + w * x[i]
        if total != np.float32(1):
            for i in range(count):
                acc[i] = acc[i] / total
        bad += _store(acc_bits, acc, count, out, s)
    return bad


@_compiled
def high(rows: Any, counts: Any) -> None:
    """`_plain.high`. Two tables take turns, so that runs of one value do not wait for each other."""
    m = rows.shape[1]
    bits, base_bits, index = np.empty(BLOCK, np.uint32), np.empty(BLOCK, np.uint32), np.empty(BLOCK, np.uint32)
    x, base = bits.view(np.float32), base_bits.view(np.float32)
    odd = np.zeros(BINS, np.int64)
    for j in range(1, rows.shape[0]):
        even = counts[j - 1]
        odd[:] = 0
        for s in range(0, m, BLOCK):
            count = min(BLOCK, m - s)
            _widen(rows[0], s, count, base_bits, base)
            _widen(rows[j], s, count, bits, x)
            for i in range(count):
                x[i] = x[i] - base[i]
            for i in range(count):
                index[i] = (bits[i] & SIGN) >> np.uint32(15)
            for i in range(0, count - 1, 2):
                even[index[i]] += 1
                odd[index[i + 1]] += 1
            if count % 2:
                even[index[count - 1]] += 1
        for b in range(BINS):
            even[b] += odd[b]


@_compiled
def low(rows: Any, bins: Any, counts: Any) -> None:
    """`_plain.low`. What lies in a bin is first gathered without a branch."""
    m = rows.shape[1]
    bits, base_bits, inside = np.empty(BLOCK, np.uint32), np.empty(BLOCK, np.uint32), np.empty(BLOCK + 1, np.uint32)
    x, base = bits.view(np.float32), base_bits.view(np.float32)
    for s in range(0, m, BLOCK):
        count = min(BLOCK, m - s)
        _widen(rows[0], s, count, base_bits, base)
        for j in range(1, rows.shape[0]):
            _widen(rows[j], s, count, bits, x)
            for i in range(count):
                x[i] = x[i] - base[i]
            for q in range(bins.shape[1]):
                wanted, table, n = bins[j - 1, q], counts[j - 1, q], 0
                for i in range(count):
                    u = bits[i] & SIGN
                    inside[n] = u & np.uint32(0x7FFF)
                    n += int((u >> np.uint32(15)) == wanted)
                for i in range(n):
                    table[inside[i]] += 1


@_compiled
def between(rows: Any, wanted: Any, counts: Any, filled: Any, found: Any) -> bool:
    """`_plain.between`. Gathers without a branch."""
    m = rows.shape[1]
    bits, base_bits, kept = np.empty(BLOCK, np.uint32), np.empty(BLOCK, np.uint32), np.empty(BLOCK + 1, np.uint32)
    x, base = bits.view(np.float32), base_bits.view(np.float32)
    for s in range(0, m, BLOCK):
        count = min(BLOCK, m - s)
        _widen(rows[0], s, count, base_bits, base)
        for p in range(wanted.shape[0]):
            a, z = np.uint32(wanted[p, 1]), np.uint32(wanted[p, 2])
            first, span = np.uint32(a + _ONE), np.uint32(z - a - _ONE if z > a else 0)
            _widen(rows[wanted[p, 0] + 1], s, count, bits, x)
            for i in range(count):
                x[i] = x[i] - base[i]
            less, equal, most = np.uint32(0), np.uint32(0), np.uint32(0)
            for i in range(count):
                u = bits[i] & SIGN
                bits[i] = u
                less += np.uint32(u < a)
                equal += np.uint32(u <= a)
                most += np.uint32(u <= z)
            counts[p, 0] += np.int64(less)
            counts[p, 1] += np.int64(equal)
            counts[p, 2] += np.int64(most)
            n = 0
            for i in range(count):
                u = bits[i]
                kept[n] = u
                n += int(np.uint32(u - first) < span)
            at = filled[p]
            if at + n > found.shape[1]:
                return False
            row = found[p, at : at + n]
            for i in range(n):
                row[i] = kept[i]
            filled[p] = at + n
    return True


@_compiled
def task_vectors(rows: Any, bounds: Any, weights: Any, elect: bool, total: Any, scale: Any, out: Any) -> int:
    """`_plain.task_vectors`."""
    models, m, bad = rows.shape[0] - 1, rows.shape[1], 0
    zero, one, small = np.float32(0), np.float32(1), np.float32(1e-8)
    base_bits, mixed_bits = np.empty(BLOCK, np.uint32), np.empty(BLOCK, np.uint32)
    base, mixed = base_bits.view(np.float32), mixed_bits.view(np.float32)
    sums, parts = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    change_bits = np.empty((models, BLOCK), np.uint32)
    changes = change_bits.view(np.float32)
    for s in range(0, m, BLOCK):
        count = min(BLOCK, m - s)
        _widen(rows[0], s, count, base_bits, base)
        for j in range(models):
            d, u = changes[j], change_bits[j]
            _widen(rows[j + 1], s, count, u, d)
            least, most, w = bounds[j, 0], bounds[j, 1], weights[j]
            for i in range(count):
                d[i] = d[i] - base[i]
            lost = np.uint32(0)
            for i in range(count):
                size = u[i] & SIGN
                lost += np.uint32(size >= _INFINITE)
                inside = (size >= least) & (size <= most)
                d[i] = w * (d[i] if inside else zero)
            bad += int(lost)
            if j == 0:
                for i in range(count):
                    mixed[i] = d[i]
            else:
                for i in range(count):
                    mixed[i] = mixed[i] + d[i]
        if elect:
            for i in range(count):
                sums[i] = one if mixed[i] >= zero else -one
                mixed[i] = zero
                parts[i] = zero
            for j in range(models):
                d, w = changes[j], weights[j]
                for i in range(count):
                    v = d[i]
                    agree = v * sums[i] > zero
                    mixed[i] = mixed[i] + (v if agree else zero)
                    parts[i] = parts[i] + (w if agree else zero)
            if total == zero:
                for i in range(count):
                    p = parts[i]
                    mixed[i] = mixed[i] / (one if abs(p) < small else p)
        if total != zero and total != one:
            for i in range(count):
                mixed[i] = mixed[i] / total
        if scale != one:
            for i in range(count):
                mixed[i] = scale * mixed[i]
        for i in range(count):
            mixed[i] = base[i] + mixed[i]
        bad += _store(mixed_bits, mixed, count, out, s)
    return bad


@_compiled
def dots(rows: Any, sums: Any) -> None:
    """`_plain.dots`."""
    m = rows.shape[1]
    a_bits, b_bits = np.empty(BLOCK, np.uint32), np.empty(BLOCK, np.uint32)
    a, b = a_bits.view(np.float32), b_bits.view(np.float32)
    for s in range(0, m, BLOCK):
        count = min(BLOCK, m - s)
        _widen(rows[0], s, count, a_bits, a)
        _widen(rows[1], s, count, b_bits, b)
        whole = count // LANES * LANES
        for i in range(0, whole, LANES):
            for k in range(LANES):
                p, q = np.float64(a[i + k]), np.float64(b[i + k])
                sums[0, k] += p * p
                sums[1, k] += q * q
                sums[2, k] += p * q
        for k in range(count - whole):
            p, q = np.float64(a[whole + k]), np.float64(b[whole + k])
            sums[0, k] += p * p
            sums[1, k] += q * q
            sums[2, k] += p * q
