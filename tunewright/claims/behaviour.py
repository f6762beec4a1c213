"""A claim's behaviour digest: what its arms do in their first steps, in numbers that come out again.

A verdict speaks of the code that found it for as long as that code does the same. Whether it does is computed, in
seconds: every arm is run at seed 0 and at the rate that was chosen, cut short (see `short`); a claim with a measure of
its own is measured once over such runs, and the norms of what it merges count too; of claims about time and memory,
what these are made of (see `work`). What is computed twice on one kind of machine is equal in every bit; another one
adds in another order, so that figures agree to rounding alone (see `checking`).
"""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from tunewright.claims import metrics
from tunewright.claims.claim import Claim, Loaded, Scale
from tunewright.claims.claim_run import ClaimRun, recipe_of
from tunewright.claims.results_io import Behaviour, ShortRun
from tunewright.claims.short import SIZES, ShortRuns, Traced, cut
from tunewright.errors import ClaimError
from tunewright.machine import host

CHOICES = 2
"""How many of a merge's choices are weighed."""
WEIGHED = ("seconds per step", "cost.peak_memory_bytes")
"""Metrics that are another figure each time: what they are made of is counted instead."""


def machine() -> dict[str, str]:
    """What equality in every bit is promised of: the processor, which of two makers' may add in another order under the
    same instructions, and the libraries' versions.
    """
    import transformers

    return {
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "processor": host.processor(),
        "torch": torch.__version__.split("+")[0],
        "transformers": transformers.__version__,
    }


class Digests:
    """Computes digests; arms that several claims share are run once. Use it as a context: its runs go with it."""

    def __init__(self) -> None:
        self._place = tempfile.TemporaryDirectory(prefix="tunewright-digests-")
        folder = Path(self._place.name)
        self._runs: dict[Scale, ShortRuns] = {s: ShortRuns(folder / s, SIZES[s]) for s in SIZES}

    def __enter__(self) -> Digests:
        return self

    def __exit__(self, *_: object) -> None:
        self._place.cleanup()

    def of(self, loaded: Loaded, scale: Scale, rates: Mapping[str, float | None], task: Mapping[str, Any]) -> Behaviour:
        """A claim's digest at a scale, at these rates by arm, on a lab task's recipe (see `runner.lab_recipe`)."""
        claim, runs = loaded.claim.at_scale(scale), self._runs[scale]
        runs.asked.clear()
        runs.weigh = claim.metric in WEIGHED
        with _one_thread():
            if loaded.measure is not None:
                return self._measured(loaded, claim, scale, rates, task)
            for arm in claim.arms:
                runs.run_one(recipe_of(task, claim, arm, 0, rates.get(arm.name)), False)
        return Behaviour(
            machine=machine(), runs={a.name: _short(t, claim) for a, t in zip(claim.arms, runs.asked, strict=True)}
        )

    def _measured(
        self, loaded: Loaded, claim: Claim, scale: Scale, rates: Mapping[str, float | None], task: Mapping[str, Any]
    ) -> Behaviour:
        runs, norms = self._runs[scale], dict[str, float]()
        merges: Counter[str] = Counter()

        def watch(name: str, tensors: Mapping[str, Any]) -> None:
            merges[name] += 1
            total = sum(float(t.double().norm() ** 2) for _, t in sorted(tensors.items()))
            norms[f"norm of {name}, {merges[name]}"] = math.sqrt(total)

        run = ClaimRun(claim, scale, task, runs, Path(self._place.name) / loaded.name, dict(rates))
        run.cut, run.choices, run.watch = lambda recipe: cut(recipe, SIZES[scale]), CHOICES, watch
        refused = None
        try:
            figures = {name: float(value) for name, value in loaded.measure(run, 0).items()}
        except ClaimError as error:  # of runs so short that there is nothing to judge: that comes out again too
            figures, refused = {}, f"{type(error).__name__}: {error.what}"
        named = {f"run {i}": _short(t, claim) for i, t in enumerate(runs.asked, 1)}
        return Behaviour(machine=machine(), runs=named, measured={**figures, **norms}, refused=refused)


def _short(traced: Traced, claim: Claim) -> ShortRun:
    figures = traced.figures()
    record = traced.record
    if record.status == "finished" and not (metrics.find(claim.metric)[2] or claim.metric in WEIGHED):
        value = metrics.value(record, claim.metric)
        figures |= {} if value is None else {claim.metric: value}
    refused = None if record.error is None else f"{record.error.type}: {record.error.message}"
    return ShortRun(losses=traced.losses, figures=figures, refused=refused, unit=record.target_unit)


@contextmanager
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
