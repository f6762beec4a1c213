"""Which precision this hardware really computes fast: decided by a timed product, since some CPUs run bf16 thirty
times slower than fp32."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache
from statistics import median
from typing import Literal

import torch

from tunewright.machine.devices import wait

Precision = Literal["float32", "bfloat16"]
WORTH = 1.3
"""bf16 must be this many times faster than fp32 to be chosen: it costs accuracy and the passes between products win
less.
"""


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


def _speed(device: torch.device, dtype: torch.dtype, limit: float = 0.25) -> float:
    """Median GFLOP/s over at most 7 products, stopped after `limit` seconds (a slow bf16 shows in one)."""
    n, k, m = (512, 1024, 1024) if device.type == "cpu" else (4096, 4096, 4096)
    a, b = torch.ones(n, k, dtype=dtype, device=device), torch.ones(m, k, dtype=dtype, device=device)
    seconds: list[float] = []
    start = time.perf_counter()
    for _ in range(8):
        wait(device)
        t = time.perf_counter()
        torch.nn.functional.linear(a, b)
        wait(device)
        seconds.append(time.perf_counter() - t)
        if time.perf_counter() - start > limit:
            break
    return 2 * n * k * m / median(seconds[1:] or seconds) / 1e9


@lru_cache
def measure_precision(device: str) -> Measured:
    """Time both precisions on `device`, once per process."""
    with torch.inference_mode():
        place = torch.device(device)
        try:
            half = _speed(place, torch.bfloat16)
        except (RuntimeError, TypeError):  # Metal before macOS 14 has no bfloat16
            half = 0.0
        return Measured(device, _speed(place, torch.float32), half)


def choose_precision(device: str | torch.device) -> Precision:
    """The precision to train in on `device`; `measure_precision` says what was measured (print it)."""
    return measure_precision(str(device)).precision
