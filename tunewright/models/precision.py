"""Which precision this hardware really computes fast: decided by timed products, since some CPUs run bf16 thirty times
slower than fp32, and kept, so that equal runs on one machine are computed alike."""

from __future__ import annotations

import json
import math
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch

from tunewright.files.cache import cache_folder, write_json
from tunewright.files.regular import regular
from tunewright.machine import host
from tunewright.machine.devices import wait

Precision = Literal["float32", "bfloat16"]
WORTH = 1.3
"""bf16 must be this many times faster than fp32 to be chosen: it costs accuracy and the passes between products win
less.
"""
SHAPE = (512, 1024, 1024)
FEWEST, MOST, LIMIT = 3, 12, 0.5
"""Products of each kind that are timed: so many at least, then until so many seconds are gone."""


@dataclass(frozen=True)
class Measured:
    """GFLOP/s of a [512, 1024] x [1024, 1024] product in both precisions on `device`, and what follows from them."""

    device: str
    float32: float
    bfloat16: float

    @property
    def precision(self) -> Precision:
        return "bfloat16" if self.bfloat16 >= WORTH * self.float32 else "float32"

    def __str__(self) -> str:
        return (
            f"{self.precision} on {self.device}: a product runs at {self.float32:.0f} GFLOP/s in float32, "
            f"{self.bfloat16:.0f} in bfloat16"
        )


def _seconds(device: torch.device, dtype: torch.dtype) -> float:
    """Seconds of one product."""
    n, k, m = SHAPE if device.type == "cpu" else (4096, 4096, 4096)
    a, b = torch.ones(n, k, dtype=dtype, device=device), torch.ones(m, k, dtype=dtype, device=device)
    wait(device)
    start = time.perf_counter()
    torch.nn.functional.linear(a, b)
    wait(device)
    return time.perf_counter() - start


def _timed(device: torch.device) -> tuple[float, float]:
    """GFLOP/s in float32 and bfloat16: the best of products in turn, since what else the machine does only slows one
    down. 0 for a precision that the device does not have.
    """
    n, k, m = SHAPE if device.type == "cpu" else (4096, 4096, 4096)
    best: dict[torch.dtype, float] = {torch.float32: math.inf, torch.bfloat16: math.inf}
    start = time.perf_counter()
    for i in range(MOST):
        for dtype in best:
            try:
                took = _seconds(device, dtype)
            except (RuntimeError, TypeError):  # Metal before macOS 14 has no bfloat16
                continue
            if i:  # the first also makes ready
                best[dtype] = min(best[dtype], took)
        if i >= FEWEST and time.perf_counter() - start > LIMIT:
            break
    single, half = (0.0 if math.isinf(s) else 2 * n * k * m / s / 1e9 for s in best.values())
    return single, half


@lru_cache
def measure_precision(device: str) -> Measured:
    """Both precisions timed on `device`, once for a machine: what was found is kept, since two runs that are compared
    may not be computed in two precisions because something else ran beside one of them.
    """
    file, key = cache_folder() / "precision.json", _key(device)
    kept = _kept(file)
    if key not in kept:
        with torch.inference_mode():
            single, half = _timed(torch.device(device))
        kept = {**_kept(file), key: [single, half]}
        with suppress(OSError):
            write_json(file, kept)
    return Measured(device, *kept[key])


def _key(device: str) -> str:
    """What decides the speeds: the device, torch, its threads and what it may use of the processor."""
    place = torch.device(device)
    name = torch.cuda.get_device_name(place) if place.type == "cuda" else host.processor()
    allowed = [f"{v}={os.environ[v]}" for v in ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA") if v in os.environ]
    return " ".join([place.type, name, f"torch {torch.__version__}", f"{torch.get_num_threads()} threads", *allowed])


def _kept(file: Path) -> dict[str, list[float]]:
    try:
        found = json.loads(regular(file).read_text(encoding="utf-8"))
        good = {k: v for k, v in found.items() if len(v) == 2 and all(isinstance(x, int | float) for x in v)}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
    return good


def choose_precision(device: str | torch.device) -> Precision:
    """The precision to train in on `device`; `measure_precision` says what was measured (print it)."""
    return measure_precision(str(device)).precision
