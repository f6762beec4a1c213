"""Sides run in turn, each in a process of its own, and their ratios with spread."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.machine import busy_seconds, load

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Side:
    """A command that prints one JSON line last: `python` of its environment, the module and its arguments."""

    name: str
    python: str
    module: str
    arguments: tuple[str, ...]

    def run(self, more: Sequence[str] = (), limit: float = 300) -> dict[str, Any]:
        """Run once; raises RuntimeError with the end of its messages where it fails."""
        command = [self.python, "-m", self.module, *self.arguments, *more]
        environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
        before, busy, own, began = load(), busy_seconds(), _children(), time.monotonic()
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=limit)
        if done.returncode:
            raise RuntimeError(f"{self.name} failed:\n{done.stderr[-2000:]}")
        record = {**json.loads(done.stdout.strip().splitlines()[-1]), "load_before": before}
        after = busy_seconds()
        if busy is not None and after is not None:
            cores = (os.cpu_count() or 1) * (time.monotonic() - began)
            record["others_share"] = round(max(0.0, after - busy - (_children() - own)) / cores, 3)
        return record


def _children() -> float:
    """CPU seconds of processes that this one started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def interleave(
    sides: Sequence[Side], rounds: int, until: float, before_round: Callable[[], None] = lambda: None
) -> dict[str, list[dict[str, Any]]]:
    """Run every side once per round, every other round in reverse; stop before a round that would end after `until`
    (monotonic seconds). The rows differ from round to round and are the same for all sides of one. No run is left out;
    `others_share` is what other processes took of the cores meanwhile."""
    results: dict[str, list[dict[str, Any]]] = {s.name: [] for s in sides}
    took = 0.0
    for r in range(rounds):
        began = time.monotonic()
        if r and began + took > until:
            print(f"stopped after {r} of {rounds} rounds: the time is up", file=sys.stderr)
            break
        before_round()
        for side in sides if r % 2 == 0 else reversed(sides):
            record = side.run(["--seed", str(r)])
            results[side.name].append(record)
            speed, memory = record["tokens_per_second"], record["peak_memory_gb"]
            print(
                (
                    f"round {r + 1} {side.name:16} {speed:7.0f} tok/s {memory:6.2f} GB  others "
                    f"{record.get('others_share', 0):.0%}"
                ),
                file=sys.stderr,
            )
        took = time.monotonic() - began
    return results


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"median": round(median(values), 3), "low": round(min(values), 3), "high": round(max(values), 3)}


def ratios(ours: Sequence[Mapping[str, Any]], peer: Sequence[Mapping[str, Any]], key: str) -> dict[str, float]:
    """ours / peer of each round: median, least and most."""
    return spread([a[key] / b[key] for a, b in zip(ours, peer, strict=True)])
