"""A sequence of tasks while it is learnt: each task's rows are measured after each task, and what was read is kept in
the run's folder, so that a run that was stopped goes on to the same matrix.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunewright.files import checkpoint
from tunewright.measure import transfer
from tunewright.measure.intervals import Interval
from tunewright.measure.kept import kept
from tunewright.measure.rows import RowResult
from tunewright.report.sequenced import AfterTask, SequenceReport
from tunewright.runs.folder import TASKS, RunFolder, unaltered
from tunewright.runs.judged import owners
from tunewright.runs.readings import Readings
from tunewright.runs.sources import STAGES

if TYPE_CHECKING:
    from tunewright.runs.work import Work

NOTED = "after_tasks"
"""Key of progress.json: stage -> SHA-256 of what was read after it."""


def unmeasured(folder: RunFolder, stage: str) -> bool:
    """Whether the tasks are still to be measured after a stage."""
    return stage not in folder.progress().get(NOTED, {})


def measure(work: Work, stage: str) -> list[RowResult]:
    """Measure all tasks after a stage, kept texts and drift too where the recipe keeps any, and keep what was read."""
    meter = work.meter
    read = meter.read(choice=False, scores_only=True) if work.recipe.keep else Readings(target=meter.read_target(None))
    note(work.folder, stage, read)
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


def readings(work: Work, tuned: Readings) -> dict[str, dict[str, Any]]:
    """What was read after each stage, by its name; after the last one what the tuned model gave."""
    noted = work.folder.progress().get(NOTED, {})
    names = [p.spec.name for p in work.session.stages]
    found = {n: recalled(work.folder, n) for n in names if n in noted}
    if names[-1] not in found:
        found[names[-1]] = {"rows": tuned.target, **(_general(tuned) if work.recipe.keep else {})}
    return {n: found[n] for n in names if n in found}


def report(work: Work, tuned: Readings) -> SequenceReport | None:
    """The matrix and what follows from it; None for a recipe without `tasks`."""
    sequence = work.recipe.sequence
    if sequence is None:
        return None
    found, metric = readings(work, tuned), work.meter.metric
    read = [work.meter.base.target, *(one["rows"] for one in found.values())]
    whose = owners(work.meter.rows, sequence)
    return SequenceReport(
        tasks=[t.name for t in sequence.tasks],
        scenario=sequence.scenario,
        by=sequence.by,
        ordered=sequence.ordered,
        rows=["base", *found],
        matrix=[list(row) for row in transfer.cells(read, whose, metric)],
        **transfer.figures(read, whose, metric),
        after=[_after(work, name, one) for name, one in found.items()],
    )


def _after(work: Work, name: str, read: Mapping[str, Any]) -> AfterTask:
    part = next(p for p in work.session.stages if p.spec.name == name)
    place = work.folder.path / "stages" / name
    there = (place / checkpoint.MANIFEST).is_file()
    return AfterTask(
        name=name,
        seconds=work.results[name].seconds,
        kept={n: Interval(**i) for n, i in read.get("kept", {}).items()},
        drift=Interval(**read["drift"]) if read.get("drift") else None,
        held_bytes=_bytes(place, "left", "wrapper") if there else None,
        change_bytes=_bytes(place, "trained") if there else None,
        replayed_rows=sum(len(d.rows) for n, (d, _) in part.replay.items() if n.startswith(STAGES)),
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
