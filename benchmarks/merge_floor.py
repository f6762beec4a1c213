"""A floor under merging: FOLDER OUT; prints seconds of pure I/O, of linear and of TIES, each the median of three, as
JSON.

`io`: all inputs read into a buffer that is used again, an output of one model's size written and synced. `linear` and
`ties`: the compiled arithmetic on mapped files by two threads, written and synced. TIES takes its thresholds from one
histogram of the upper 16 bits of magnitudes, so they are near and not exact. Imports and compilation come before the
clock starts, and there is no check, hash, card or second try: what a merge takes beyond this is the engine's.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from tunewright.files.hashing import Stored, read_header
from tunewright.weights import _kernels, _plain

WEIGHT, DENSITY = 0.33, 0.5


def arithmetic(rows: list[Any], kind: str, out: Any) -> None:
    """One tensor: base and models as bfloat16 bits."""
    weights = np.full(len(rows) - 1, WEIGHT, np.float32)
    if kind == "linear":
        _kernels.linear(np.stack(rows[1:]), weights, np.float32(weights.sum()), out)
        return
    whole = np.stack(rows)
    counts = np.zeros((len(rows) - 1, _plain.BINS), np.int64)
    _kernels.high(whole, counts)
    n = len(out)
    places = [int(np.searchsorted(np.cumsum(c), n - int(DENSITY * n), side="right")) for c in counts]
    bounds = np.array([(p << 15, 0xFFFFFFFF) for p in places], np.uint32)
    _kernels.task_vectors(whole, bounds, weights, True, np.float32(0), np.float32(1), out)


def merged(files: list[Path], kind: str, out: Path) -> None:
    """All tensors of a model, ranges of 4M values at a time, into `out`."""
    mapped = [np.memmap(f, np.uint8, "r") for f in files]
    tensors = [{t.name: t for t in read_header(f)} for f in files]
    descriptor = os.open(out, os.O_RDWR | os.O_CREAT | os.O_TRUNC)

    def one(t: Stored) -> None:
        rows = [m[s[t.name].start : s[t.name].stop].view(np.uint16) for m, s in zip(mapped, tensors, strict=True)]
        for a in range(0, len(rows[0]), 1 << 22):
            parts = [r[a : a + (1 << 22)] for r in rows]
            made = np.empty(len(parts[0]), np.uint16)
            arithmetic(parts, kind, made)
            os.pwrite(descriptor, made.data.cast("B"), t.start + 2 * a)

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        list(pool.map(one, sorted(tensors[0].values(), key=lambda t: t.start - t.stop)))
    os.fsync(descriptor)
    os.close(descriptor)


def moved(files: list[Path], out: Path) -> None:
    """Read everything, write one model's size."""

    def read(file: Path) -> None:
        buffer = bytearray(1 << 24)
        with file.open("rb", buffering=0) as f:
            while f.readinto(buffer):
                pass

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        list(pool.map(read, files))
    block, left = bytes(1 << 24), files[0].stat().st_size
    with out.open("wb", buffering=0) as f:
        while left > 0:
            left -= f.write(block[:left])
        os.fsync(f.fileno())


def seconds(do: Callable[[], None], out: Path) -> float:
    """The median of three."""
    took = []
    for _ in range(3):
        out.unlink(missing_ok=True)
        began = time.perf_counter()
        do()
        took.append(time.perf_counter() - began)
    out.unlink(missing_ok=True)
    return round(median(took), 3)


if __name__ == "__main__":
    folder, target = Path(sys.argv[1]), Path(sys.argv[2])
    inputs = [folder / n / "model.safetensors" for n in ("base", "ft0", "ft1", "ft2")]
    for kind in ("linear", "ties"):
        arithmetic(
            [np.zeros(4096, np.uint16) for _ in inputs], kind, np.zeros(4096, np.uint16)
        )  # compiled, or loaded, here
    found = {"io": seconds(lambda: moved(inputs, target), target)}
    for kind in ("linear", "ties"):
        found[kind] = seconds(lambda kind=kind: merged(inputs, kind, target), target)  # type: ignore[misc]
    print(json.dumps(found))
