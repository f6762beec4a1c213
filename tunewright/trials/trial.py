"""Trials: one recipe run for its figures alone, kept as a record that can be found again.

A trial goes through `tunewright.runs.run.run` like any run; what it leaves is a `TrialRecord` in a `Store`, and nothing
else unless asked. A run that fails (a loss that is not finite, methods that are refused, no memory left) is a record
too, with what and where: only an interruption by the user ends a trial without one.
"""

from __future__ import annotations

import datetime
import json
import os
import shutil
import tempfile
import time
import traceback
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tunewright.errors import FolderError, Interrupted, TunewrightError
from tunewright.files.cache import write_json
from tunewright.machine import host
from tunewright.machine.memory import give_back_freed_memory
from tunewright.recipe import Recipe
from tunewright.trials.row_scores import RowScores
from tunewright.trials.trial_key import key_of

if TYPE_CHECKING:
    from tunewright.report.adaptations import Adaptation
    from tunewright.report.schema import Report
    from tunewright.runs.result import Result

__all__ = ["Reading", "Store", "TrialError", "TrialRecord", "commit_of", "key_of", "run_trial"]

RECORD_VERSION: Literal[1] = 1
Status = Literal["finished", "failed", "killed"]

_DECIDED = {"NonFiniteError", "MethodError", "RecipeError", "DataError", "ModelError"}
"""Errors that the same trial would meet again. Others (memory, disk, network, a defect) may be gone the next time."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Reading(_Part):
    """The figures at one strength of the change."""

    strength: float = Field(description="0: the base, 1: the tuned model")
    target: float | None = Field(None, description="the headline metric; none: nothing to evaluate on")
    kept: dict[str, float] = Field(default_factory=dict, description="kept name -> loss, nats per token")
    packs: dict[str, float] = Field(default_factory=dict, description="of base and full strength: pack -> right share")
    drift: float | None = Field(None, description="from the base, in the measure that the record names")


class TrialError(_Part):
    """What ended a trial, and where."""

    type: str = Field(description="class of the error, or the signal that killed the process")
    message: str = Field(description="what was wrong")
    where: str | None = Field(None, description="file:line, field, layer, step or phase")


class TrialRecord(_Part):
    """One trial's figures, or why it has none."""

    version: Literal[1] = RECORD_VERSION
    key: str = Field(description="hash of everything that decides the numbers")
    arm: str = Field("", description="which method or group of methods")
    seed: int = Field(0, description="the recipe's train.seed")
    status: Status = Field("finished", description="finished, failed (by itself) or killed (the process died)")
    error: TrialError | None = Field(None, description="of a trial that did not finish")
    base: Reading = Field(
        default_factory=lambda: Reading(strength=0.0), description="the untouched base on the same rows"
    )
    strengths: list[Reading] = Field(
        default_factory=list, description="strengths above 0 in rising order, 1 among them"
    )
    target_metric: str = Field("", description="name of the headline metric")
    target_unit: str = Field("fraction", description="its unit")
    kept_unit: str = Field("nats per token", description="the unit of the losses on what is to be kept")
    direction: Literal["higher", "lower"] = Field("higher", description="which way the target is better")
    evaluated: int | None = Field(None, description="rows that the target was measured on")
    rows: RowScores | None = Field(
        None, description="the target row by row; none: it is no mean over rows, or the record is of before"
    )
    drift_measure: Literal["kl", "1-cka", "forecast", "action", "denoising"] | None = Field(
        None,
        description="'kl' in nats per token, '1-cka' from 0 to 1, 'forecast' or 'action' in standard deviations, or "
        "'denoising', a mean square",
    )
    sequence: dict[str, float] = Field(
        default_factory=dict,
        description="of a sequence of tasks, whose target is the mean over tasks: forgetting, transfer ...",
    )
    along: dict[str, dict[str, float]] = Field(
        default_factory=dict, description="stage -> starts, ends and stability gaps of what was followed along it"
    )
    probes: dict[str, dict[str, float]] = Field(default_factory=dict, description="probe -> its single numbers")
    test_time: dict[str, dict[str, float]] = Field(
        default_factory=dict, description="method -> its figures on the stream: without, online, backwards ..."
    )
    cost: dict[str, Any] = Field(default_factory=dict, description="the report's cost")
    trained: dict[str, Any] = Field(default_factory=dict, description="the report's account of what could change")
    stages: list[dict[str, Any]] = Field(default_factory=list, description="the report's stages")
    serves: list[str] | None = Field(None, description="why adapter servers cannot load the change; []: they can")
    order: str | None = Field(None, description="hash of the training rows in the order they are drawn")
    rows_hash: str | None = Field(None, description="hash of the training rows")
    base_hash: str | None = Field(None, description="hash of the base's weights")
    notes: list[str] = Field(default_factory=list, description="warnings of the run")
    recipe: dict[str, Any] = Field(default_factory=dict, description="the recipe with every default")
    hardware: dict[str, Any] = Field(default_factory=dict, description="the machine")
    threads: int = Field(1, description="torch threads")
    versions: dict[str, str] = Field(default_factory=dict, description="package -> version")
    commit: str | None = Field(None, description="commit of the source, where it is a checkout")
    started: datetime.datetime = Field(description="with time zone")
    seconds: float = Field(0.0, description="from start to record, seconds")
    attempt: int = Field(1, description="which attempt at this trial")
    folder: str | None = Field(None, description="the run's folder, where it was asked for")

    @property
    def finished(self) -> bool:
        return self.status == "finished"

    @property
    def settled(self) -> bool:
        """Whether running it again would give the same: it finished, or failed for a reason of its own."""
        return self.status == "finished" or (
            self.status == "failed" and self.error is not None and self.error.type in _DECIDED
        )

    @property
    def tuned(self) -> Reading | None:
        """The figures at full strength."""
        return next((r for r in self.strengths if r.strength == 1.0), None)


class Store:
    """Records in a folder, by key; each attempt is a file that appears whole or not at all.

    `also`: other stores' folders that are read where this one has no settled record.
    """

    def __init__(self, folder: Path | str, also: Iterable[Path | str] = ()):
        self.folder = Path(folder)
        self.also = tuple(Path(p) for p in also)

    def attempts(self, key: str) -> list[TrialRecord]:
        """Every attempt in this store, the first one first; a file that is no record is passed over."""
        return list(_records(self.folder / key))

    def get(self, key: str) -> TrialRecord | None:
        """The last settled record of a trial, else the last one; None when there is none."""
        records = self.attempts(key)
        if not any(r.settled for r in records):
            records += [r for folder in self.also for r in _records(folder / key) if r.settled]
        return next((r for r in reversed(records) if r.settled), records[-1] if records else None)

    def put(self, record: TrialRecord) -> Path:
        """Write a record beside earlier ones. FolderError where it cannot be written."""
        path = self.folder / record.key / f"{record.started:%Y%m%dT%H%M%S%f}-{os.getpid()}.json"
        try:
            write_json(path, record.model_dump(mode="json"))
        except OSError as e:
            raise FolderError(
                f"a trial's record cannot be written: {e.strerror or e}",
                where=str(path),
                remedy="free space, or choose another folder",
            ) from e
        return path

    def work_folder(self) -> Path:
        """A fresh folder for one run; `sweep` removes those that killed processes left."""
        place = self.folder / ".work"
        try:
            place.mkdir(parents=True, exist_ok=True)
            return Path(tempfile.mkdtemp(prefix=f"{host.mark()}-", dir=place))
        except OSError as e:
            raise FolderError(
                f"a trial's folder cannot be made: {e.strerror or e}",
                where=str(place),
                remedy="free space, or choose another folder",
            ) from e

    def sweep(self) -> None:
        """Remove the work folders of processes that are gone; what another machine may be working in stays."""
        for path in (self.folder / ".work").glob("*-*-*-*"):
            if host.is_gone(path.name.rpartition("-")[0]):
                shutil.rmtree(path, ignore_errors=True)


def _records(folder: Path) -> Iterable[TrialRecord]:
    for path in sorted(folder.glob("*.json")):
        try:
            yield TrialRecord.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            continue  # of another version, or damaged: the trial is run again


def run_trial(
    recipe: Recipe,
    store: Store,
    *,
    keep_artefacts: bool = False,
    arm: str = "",
    key: str | None = None,
    threads: int | None = None,
) -> TrialRecord:
    """Run a recipe in this process and put its record into the store; a settled one that is there already is returned.

    `key`: of the recipe, where the caller knows it. `threads`: for a recipe that names none. `keep_artefacts`: the
    run's whole folder stays beside the record, and a record without one is made anew. Raises Interrupted when the run
    was asked to stop, and FolderError when nothing can be written.
    """
    key = key or key_of(recipe)
    known = store.get(key)
    if known is not None and known.settled and (not keep_artefacts or (known.folder and Path(known.folder).is_dir())):
        return known.model_copy(update={"arm": arm or known.arm})
    started, clock = datetime.datetime.now(datetime.UTC), time.perf_counter()
    seed = int(recipe.train.seed)
    about: dict[str, Any] = {
        "key": key,
        "arm": arm,
        "seed": seed,
        "started": started,
        "commit": commit_of(),
        "attempt": len(store.attempts(key)) + 1,
    }
    folder = store.work_folder()
    try:
        _forget_peak()
        figures = _figures(recipe, folder, whole=keep_artefacts, threads=threads)
        record = TrialRecord(**about, **figures)
        if keep_artefacts:
            kept = store.folder / key / f"run-{started:%Y%m%dT%H%M%S%f}"
            kept.parent.mkdir(parents=True, exist_ok=True)
            os.replace(folder / "run", kept)
            record.folder = str(kept)
    except Interrupted:
        raise
    except Exception as error:
        tree = recipe.model_dump(mode="json")
        record = TrialRecord(
            **about, status="failed", error=_what(error), recipe=tree, threads=recipe.train.threads or threads or 1
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    record.seconds = time.perf_counter() - clock
    store.put(record)
    return record


def _figures(recipe: Recipe, folder: Path, *, whole: bool, threads: int | None) -> dict[str, Any]:
    from tunewright.finished.servability import servability
    from tunewright.runs.run import run

    if threads is not None and recipe.train.threads is None:
        base = recipe.base
        recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"threads": threads})})
        recipe._base = base
    result = run(recipe, folder / "run", quiet=True, figures_only=not whole)
    figures = figures_of(result.report)
    figures["order"], figures["serves"] = result.order, servability(result.folder)
    peak = host.recent_peak()
    if peak is not None and not str(figures["hardware"].get("device", "cpu")).startswith("cuda"):
        figures["cost"]["peak_memory_bytes"] = peak
    figures["rows"] = scores_of(result)
    return {**figures, "recipe": Recipe.load(result.folder / "recipe.yaml").model_dump(mode="json")}


def scores_of(result: Result) -> RowScores | None:
    """The headline metric of a run row by row; None where it is no mean over rows, as over tasks."""
    return RowScores.of(*result.rows) if result.rows is not None and result.report.sequence is None else None


def figures_of(report: Report) -> dict[str, Any]:
    """What a record takes from a report."""
    target, sequence = report.target, report.sequence
    kept = {k.name or "kept": k for k in report.kept}
    before = target.before.value if target and target.before else None
    after = target.after.value if target and target.after else None
    base = Reading(
        strength=0.0,
        target=before if sequence is None else sequence.mean(0),
        kept={n: k.before.value for n, k in kept.items() if k.before is not None},
        packs={str(p.name): p.before.value for p in report.packs if p.before is not None},
        drift=0.0 if report.drift is not None else None,
    )
    readings = {
        s.strength: Reading(
            strength=s.strength,
            target=s.target.value if s.target else None,
            kept={n: v.value for n, v in s.kept.items()},
            drift=s.drift.value if s.drift else None,
        )
        for s in report.trade
        if s.strength > 0
    }
    if 1.0 not in readings:  # nothing that can be dialled: full strength is there all the same
        readings[1.0] = Reading(
            strength=1.0,
            target=after if sequence is None else sequence.mean(-1),
            kept={n: k.after.value for n, k in kept.items() if k.after is not None},
            drift=report.drift.value.value if report.drift else None,
        )
    readings[1.0].packs = {str(p.name): p.after.value for p in report.packs if p.after is not None}
    run = report.run
    return {
        "base": base,
        "strengths": [readings[s] for s in sorted(readings)],
        "target_metric": target.metric if target else "",
        "kept_unit": next((k.unit for k in report.kept), "nats per token"),
        "target_unit": target.unit if target else "fraction",
        "direction": target.direction if target else "higher",
        "evaluated": target.n if target else None,
        "drift_measure": report.drift.measure if report.drift else None,
        "sequence": sequence.plain() if sequence is not None else {},
        "along": {one.stage: one.plain() for one in report.along},
        "probes": {n: _numbers(p.values) for n, p in report.probes.items()},
        "test_time": {a.method: _streamed(a) for a in report.test_time},
        "cost": report.cost.model_dump(mode="json"),
        "trained": report.trained.model_dump(mode="json"),
        "stages": [s.model_dump(mode="json") for s in report.stages],
        "rows_hash": report.data.hash,
        "base_hash": report.model.hash if report.model else None,
        "notes": report.notes,
        "hardware": run.hardware.model_dump(mode="json") if run.hardware else {},
        "threads": run.threads or 1,
        "versions": run.versions,
    }


def _streamed(found: Adaptation) -> dict[str, float]:
    ends = {"without": found.before, "online": found.after}
    figures = {name: interval.value for name, interval in ends.items() if interval is not None}
    spent = {"forwards": found.forwards, "backwards": found.backwards, "restored": len(found.restored)}
    return {**figures, **spent, "flops": found.flops, "flops_without": found.flops_without}


def _numbers(values: dict[str, Any]) -> dict[str, float]:
    plain = {n: getattr(v, "value", v) for n, v in values.items()}
    return {n: float(v) for n, v in plain.items() if isinstance(v, int | float) and not isinstance(v, bool)}


def _what(error: Exception) -> TrialError:
    if isinstance(error, TunewrightError):
        return TrialError(type=type(error).__name__, message=error.what, where=error.where)
    if (
        isinstance(error, MemoryError)
        or "not enough memory" in str(error)
        or type(error).__name__ == "OutOfMemoryError"
    ):
        return TrialError(type="MemoryError", message=f"no memory left: {error}"[:500], where=None)
    last = traceback.extract_tb(error.__traceback__)[-1]
    return TrialError(
        type=type(error).__name__,
        message=str(error)[:2000] or type(error).__name__,
        where=f"{Path(last.filename).name}:{last.lineno}",
    )


def _forget_peak() -> None:
    """Let the process's peak memory begin anew: a worker does many trials, and each has its own peak."""
    import gc

    gc.collect()
    give_back_freed_memory()
    host.forget_peak()


@lru_cache
def commit_of() -> str | None:
    """The commit that the package's source is at, None where it is installed; read from the files, no git is run."""
    git = Path(__file__).resolve().parents[2] / ".git"
    try:
        head = (git / "HEAD").read_text(encoding="utf-8").strip()
        if not head.startswith("ref: "):
            return head
        ref = head.removeprefix("ref: ")
        if (git / ref).is_file():
            return (git / ref).read_text(encoding="utf-8").strip()
        packed = (git / "packed-refs").read_text(encoding="utf-8").splitlines()
        return next(line.split()[0] for line in packed if line.endswith(ref))
    except (OSError, StopIteration):
        return None


def dumps(record: TrialRecord) -> str:
    """One line of JSON."""
    return json.dumps(record.model_dump(mode="json"))
