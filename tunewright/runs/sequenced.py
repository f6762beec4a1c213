"""A sequence of tasks while it is learnt: each task's rows are measured after each task, and what was read is kept in
the run's folder, so that a run that was stopped goes on to the same matrix.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunewright.files import checkpoint
from tunewright.measure import transfer
from tunewright.measure.intervals import Interval
from tunewright.measure.kept import kept
from tunewright.measure.rows import RowResult
from tunewright.report.sequenced import AfterTask, SequenceReport
from tunewright.runs.folder import TASKS, RunFolder, unaltered
from tunewright.runs.judged import owners
from tunewright.runs.meter import Meter
from tunewright.runs.readings import Readings
from tunewright.runs.session import Session, StageInputs
from tunewright.runs.sources import STAGES
from tunewright.runs.stages import TrainingOutcome

NOTED = "after_tasks"
"""Key of progress.json: stage -> SHA-256 of what was read after it."""


def unmeasured(folder: RunFolder, stage: str) -> bool:
    """Whether the tasks are still to be measured after a stage."""
    return stage not in folder.progress().get(NOTED, {})


def measure(folder: RunFolder, meter: Meter, stage: str) -> list[RowResult]:
    """Measure all tasks after a stage, kept texts and drift too where the recipe keeps any, and keep what was read."""
    whole = bool(meter.session.recipe.keep)
    read = meter.read(choice=False, scores_only=True) if whole else Readings(target=meter.read_target())
    note(folder, stage, read)
    return read.target


def note(folder: RunFolder, stage: str, read: Readings) -> None:
    """Keep what was read after a stage. FolderError where it cannot be written."""
    file = _file(folder, stage)
    rows = [{k: v for k, v in r.model_dump(exclude_defaults=True).items() if k != "prompt"} for r in read.target]
    values = {"rows": rows, **_general(read)}
    try:
        file.parent.mkdir(exist_ok=True)
    except OSError as e:
        raise checkpoint.folder_error(e, file.parent) from e
    checkpoint.write_json(file, values)
    noted = folder.progress().get(NOTED, {})
    folder.note_progress(**{NOTED: {**noted, stage: checkpoint.sha256_of(file)}})


def recalled(folder: RunFolder, stage: str) -> dict[str, Any]:
    """What was kept of a stage: "rows" as results, "kept" and "drift". CheckpointError where it was altered."""
    digest = folder.progress()[NOTED][stage]
    values = json.loads(unaltered(_file(folder, stage), digest, "what was measured after a task"))
    return {**values, "rows": [RowResult(**r) for r in values["rows"]]}


def readings(folder: RunFolder, session: Session, tuned: Readings) -> dict[str, dict[str, Any]]:
    """What was read after each stage, by its name; after the last one what the tuned model gave."""
    noted = folder.progress().get(NOTED, {})
    names = [p.spec.name for p in session.stages]
    found = {n: recalled(folder, n) for n in names if n in noted}
    if names[-1] not in found:
        found[names[-1]] = {"rows": tuned.target, **(_general(tuned) if session.recipe.keep else {})}
    return {n: found[n] for n in names if n in found}


def report(
    folder: RunFolder, meter: Meter, results: Mapping[str, TrainingOutcome], tuned: Readings
) -> SequenceReport | None:
    """The matrix and what follows from it; None for a recipe without `tasks`, or with nothing measured."""
    sequence = meter.session.recipe.sequence
    if sequence is None or not meter.rows:
        return None
    found = readings(folder, meter.session, tuned)
    read = [meter.base.target, *(one["rows"] for one in found.values())]
    whose = owners(meter.rows, sequence)
    stages, after = meter.session.stages, []
    for before, part in zip((None, *stages), stages, strict=False):
        if (name := part.spec.name) in found:
            earlier = _held_rows(results[before.spec.name]) if before is not None else {}
            again = sum(n for method, n in earlier.items() if method in _held_rows(results[name]))
            after.append(_after(folder, part, results[name], found[name], again))
    return SequenceReport(
        tasks=[t.name for t in sequence.tasks],
        scenario=sequence.scenario,
        by=sequence.by,
        blurry=(sequence.blurry.disjoint, sequence.blurry.blur) if sequence.blurry is not None else None,
        recurring=sequence.recurring.tasks if sequence.recurring is not None else None,
        ordered=sequence.ordered,
        rows=["base", *found],
        matrix=transfer.cells(read, whose, meter.metric, len(sequence.tasks)),
        **transfer.figures(read, whose, meter.metric, len(sequence.tasks), recurring=sequence.recurring is not None),
        after=after,
    )


def _held_rows(outcome: TrainingOutcome) -> dict[str, int]:
    """Method -> rows that it keeps for later stages when this one ends."""
    return {name: sum(kept.values()) for name, one in outcome.found.items() if (kept := one.get("kept_rows"))}


def _after(
    folder: RunFolder, part: StageInputs, outcome: TrainingOutcome, read: Mapping[str, Any], again: int
) -> AfterTask:
    """`again`: rows that methods have kept of the stages before."""
    place = folder.path / "stages" / part.spec.name
    there = (place / checkpoint.MANIFEST).is_file()
    return AfterTask(
        name=part.spec.name,
        seconds=outcome.seconds,
        kept={n: Interval(**i) for n, i in read.get("kept", {}).items()},
        drift=Interval(**read["drift"]) if read.get("drift") else None,
        held_bytes=_bytes(place, "left", "wrapper") if there else None,
        change_bytes=_bytes(place, "trained") if there else None,
        replayed_rows=again + sum(len(d.rows) for n, (d, _) in part.replay.items() if n.startswith(STAGES)),
    )


def _bytes(place: Path, *stems: str) -> int:
    """What a stage's files of tensors hold, bytes."""
    from safetensors import safe_open

    total = 0
    for stem in stems:
        file = place / f"{stem}.safetensors"
        if not file.is_file():
            continue
        with safe_open(file, framework="pt") as f:
            for key in f.keys():  # noqa: SIM118
                tensor = f.get_tensor(key)
                total += tensor.numel() * tensor.element_size()
    return total


def _general(read: Readings) -> dict[str, Any]:
    """Kept texts and drift as intervals, as JSON."""
    texts = {n: kept(docs).model_dump() for n, docs in read.kept.items()}
    return {"kept": texts, "drift": read.drift.interval.model_dump() if read.drift is not None else None}


def _file(folder: RunFolder, stage: str) -> Path:
    return folder.path / TASKS / f"{stage}.json"
