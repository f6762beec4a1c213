"""Runs cut short: a recipe's first steps on a few rows, to see in seconds what it does rather than how well.

Everything that a run goes through is gone through (rows drawn, methods set up, every stage trained, readings at the
strengths, probes, merges), only smaller. So a change of what any of it does shows in the losses or in the readings.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tunewright.claims.claim import Scale
from tunewright.claims.work import weighed
from tunewright.errors import MethodError, NonFiniteError
from tunewright.recipe import Budget, Recipe, Source
from tunewright.runs.folder import RunFolder
from tunewright.runs.run import run
from tunewright.trials.trial import TrialError, TrialRecord, figures_of, scores_of


@dataclass(frozen=True)
class Size:
    """How short: optimizer steps of each stage, rows that are judged, documents and passages that are read."""

    steps: int
    rows: int
    texts: int


BATCH_TOKENS = 512
SIZES: dict[Scale, Size] = {"nano": Size(steps=6, rows=6, texts=2), "real": Size(steps=2, rows=6, texts=2)}
"""By scale: a real base takes seconds per step."""


def cut(recipe: Recipe, size: Size) -> Recipe:
    """A copy with few steps and rows, small batches, one thread, on the processor."""
    short = recipe.model_copy(deep=True)
    for stage in short.stages:
        stage.budget = Budget(steps=size.steps)
    for sources in (short.data.eval, short.data.validation):
        for source in sources if isinstance(sources, list) else ():
            source.limit = size.rows
    for kept in short.keep:
        kept.limit = size.texts
    for source in _trained_on(short):  # what is mixed is drawn by its name, which would be its place on this machine
        if source.name is None and Path(source.path).is_absolute():
            source.name = Path(source.path).name
    short.train.batch_tokens = min(BATCH_TOKENS, short.train.batch_tokens or BATCH_TOKENS)
    short.train.threads, short.train.device, short.train.logging_steps = 1, "cpu", 1
    judged = short.measurement
    judged.rows, judged.few_shot = size.rows, 0
    judged.drift_sequences, judged.drift_tokens = size.texts, min(16, judged.drift_tokens)
    judged.max_new_tokens = min(6, judged.max_new_tokens)
    judged.strengths = [s for s in judged.strengths if s in (0.5, 1.0)] or judged.strengths[-1:]
    short._base = recipe._base
    return short


def _trained_on(recipe: Recipe) -> list[Source]:
    return [s for data in (recipe.data, *(stage.data for stage in recipe.stages)) if data for s in data.train or ()]


@dataclass
class Traced:
    """What one short run did: every step's loss, stage after stage, and all that was read."""

    record: TrialRecord
    losses: list[float] = field(default_factory=list)
    work: dict[str, float] = field(default_factory=dict)

    def figures(self) -> dict[str, float]:
        """Readings by strength, probes, what trained and what was weighed, as plain numbers by path."""
        readings = {"base": self.record.base, **{f"at {r.strength:g}": r for r in self.record.strengths}}
        out: dict[str, float] = {}
        for place, reading in readings.items():
            out |= {f"{place}.kept.{name}": loss for name, loss in reading.kept.items()}
            out |= {f"{place}.{n}": v for n in ("target", "drift") if (v := getattr(reading, n)) is not None}
        for probe, values in self.record.probes.items():
            out |= {f"{probe}.{name}": value for name, value in values.items()}
        trained = self.record.cost.get("trainable_parameters")
        return {**out, **({} if trained is None else {"trainable parameters": float(trained)}), **self.work}


class ShortRuns:
    """Runs recipes cut short, in this process, each once whoever asks; `asked` lists what was asked for, in order.

    `weigh`: count what they compute and keep too (see `work`), which takes a while.
    """

    weigh = False

    def __init__(self, folder: Path, size: Size):
        self.folder, self.size = folder, size
        self.known: dict[str, Traced] = {}
        self.asked: list[Traced] = []
        self._number = itertools.count()

    def run_one(self, recipe: Recipe, keep_artefacts: bool) -> TrialRecord:
        """The record of the recipe cut short; a run that a method refuses or that breaks off is a record too.

        Other errors (no model, no data, no space) say nothing of what the code does, and are raised.
        """
        short = cut(recipe, self.size)
        key = f"{_key(short)}{'-weighed' * self.weigh}"
        traced = self.known.get(key)
        if traced is None or (keep_artefacts and traced.record.folder is None):
            traced = self.known[key] = self._traced(short, key, keep_artefacts)
        self.asked.append(traced)
        return traced.record

    def _traced(self, recipe: Recipe, key: str, keep: bool) -> Traced:
        out = self.folder / f"{next(self._number)}-{key[:8]}"
        about: dict[str, Any] = {"key": key, "seed": recipe.train.seed, "started": datetime.now(UTC)}
        try:
            result = run(recipe, out, quiet=True, figures_only=not keep)
            work = self._weighed(recipe, out) if self.weigh else {}
        except (MethodError, NonFiniteError) as error:
            why = TrialError(type=type(error).__name__, message=error.what, where=error.where)
            return Traced(TrialRecord(**about, status="failed", error=why), _losses(out))
        record = TrialRecord(
            **about, **figures_of(result.report), rows=scores_of(result), folder=str(out) if keep else None
        )
        traced = Traced(record, _losses(out), work)
        if not keep:
            shutil.rmtree(out)
        return traced

    def _weighed(self, recipe: Recipe, out: Path) -> dict[str, float]:
        """Run once more: what is cached of the base is there now, so that it is not computed in some runs alone."""
        again = out.with_name(f"{out.name}-weighed")
        with weighed() as work:
            run(recipe, again, quiet=True, figures_only=True)
        shutil.rmtree(again)
        return work


def _losses(folder: Path) -> list[float]:
    return [m["loss"] for m in RunFolder(folder).metrics() if "loss" in m] if folder.is_dir() else []


def _key(recipe: Recipe) -> str:
    tree = recipe.model_dump(mode="json", exclude={"name"})
    return hashlib.sha256(json.dumps(tree, sort_keys=True, default=str).encode()).hexdigest()
