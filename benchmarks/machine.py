"""The machine a figure was taken on: its name, its load and the speed of a large matrix product."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from statistics import median
from typing import Any


def processor() -> str:
    """The processor's name, as Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    name = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), platform.machine())
    units = next((x.split() for x in lines if x.startswith("flags")), [])
    return name + "".join(f" +{u}" for u in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if u in units)


def gemm_peak(dtype: str, threads: int) -> float:
    """GFLOP/s of a 2048^3 product: the median of 9 after one."""
    import torch

    torch.set_num_threads(threads)
    a, b = (torch.randn(2048, 2048).to(getattr(torch, dtype)) for _ in range(2))
    seconds = []
    for _ in range(10):
        t = time.perf_counter()
        torch.nn.functional.linear(a, b)
        seconds.append(time.perf_counter() - t)
    return 2 * 2048**3 / median(seconds[1:]) / 1e9


def busy_seconds() -> float | None:
    """CPU seconds that all processes of the machine have taken since it started; None where it does not say."""
    try:
        fields = [int(x) for x in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    except OSError:
        return None
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def load() -> float:
    """Processes that wanted to run over the last minute."""
    return os.getloadavg()[0]


def describe(dtype: str, threads: int) -> dict[str, Any]:
    import torch
    import transformers

    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "dtype": dtype,
        "load": load(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "spin": os.environ.get("GOMP_SPINCOUNT", "default"),
    }
