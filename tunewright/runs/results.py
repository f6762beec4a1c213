"""From readings to report.json: every figure with its interval, paired on the same rows."""

from __future__ import annotations

import hashlib
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from tunewright.data.dataset import joined
from tunewright.data.view import token_view
from tunewright.machine import host
from tunewright.measure import transfer
from tunewright.measure.cost import Cost
from tunewright.measure.intervals import Interval
from tunewright.measure.kept import kept, kept_difference
from tunewright.measure.rows import RowResult, pair
from tunewright.measure.target import summary
from tunewright.models.delta_names import module_of
from tunewright.models.sites import parameters_by_role
from tunewright.report import schema
from tunewright.report.packed import PackFigure
from tunewright.runs import packs
from tunewright.runs.judged import owners
from tunewright.runs.meter import Meter
from tunewright.runs.provenance import parts_of
from tunewright.runs.readings import Readings
from tunewright.runs.session import Session
from tunewright.runs.sources import STAGES
from tunewright.runs.stages import TrainingOutcome
from tunewright.runs.target_report import kept_unit
from tunewright.training.budget import epochs_of, steps_per_epoch

SHOWN = 24  # answers in report.json; all are in rows.jsonl


def kept_of(meter: Meter, after: Readings) -> list[schema.Measured]:
    return [
        schema.Measured(
            name=name,
            metric="loss",
            direction="lower",
            unit=kept_unit(meter),
            before=kept(docs),
            after=kept(after.kept[name]),
            difference=kept_difference(docs, after.kept[name]),
            n=len(docs),
        )
        for name, docs in meter.base.kept.items()
    ]


def packs_of(meter: Meter, after: Readings) -> list[PackFigure]:
    asked = meter.session.packs
    return [packs.figure(asked[name].pack, base, after.packs[name]) for name, base in meter.base.packs.items()]


def drift_of(meter: Meter, after: Readings) -> schema.Drift | None:
    if after.drift is None:
        return None
    tokens = sum(1 for r in meter.drift_rows for w in r.weights if w > 0)
    return schema.Drift(
        measure=after.drift.measure,
        value=after.drift.interval,
        sequences=len(meter.drift_rows),
        tokens=tokens,
        on=meter.drift_on,
    )


def strength_of(meter: Meter, strength: float, found: Readings) -> schema.Strength:
    return schema.Strength(
        strength=strength,
        target=headline(meter, found),
        kept={n: kept(docs) for n, docs in found.kept.items()},
        drift=found.drift.interval if found.drift else None,
    )


def headline(meter: Meter, found: Readings) -> Interval | None:
    """The target of a reading: of a sequence the mean over tasks, which is how its ends are compared."""
    if not found.target:
        return None
    sequence = meter.session.recipe.sequence
    if sequence is None:
        return summary(found.target, meter.metric)
    whose = owners(found.target, sequence)
    return transfer.figures([found.target], whose, meter.metric, len(sequence.tasks))["accuracy"]


def data_of(session: Session, results: dict[str, TrainingOutcome]) -> schema.DataInfo:
    sources: list[schema.SourceInfo] = []
    parts = session.stages if session.recipe.sequence is not None else session.stages[:1]
    first = joined([p.rows for p in parts])
    read = results[session.stages[0].spec.name].streamed if results else {}
    counts = {d.name: {**d.counts, **{k: int(v) for k, v in read.get(d.name, {}).items()}} for d in first.sources}
    for role, dataset in [
        ("train", first),
        *(("train", p.rows) for p in session.stages[len(parts) :] if p.spec.data is not None),
        *(("replay", d) for p in session.stages for n, (d, _) in p.replay.items() if not n.startswith(STAGES)),
        ("eval", session.eval),
        ("validation", session.validation),
        ("test_time", session.stream),
        *(("keep", d) for d in session.keep.values()),
    ]:
        if dataset is not None:
            for d in dataset.sources:
                if any((s.path, s.role) == (d.name, role) for s in sources):
                    continue  # of an earlier stage
                rows, tokens = len(d.rows), d.counts["tokens"]
                if d.stream is not None:  # what was read, which may be more than once over
                    rows, tokens = counts[d.name]["rows"], counts[d.name]["tokens"]
                sources.append(
                    schema.SourceInfo(
                        path=d.name, role=role, weight=1.0 if d.weight is None else d.weight, rows=rows, tokens=tokens
                    )
                )
    for name, asked in session.packs.items():
        about = {"rows": len(asked.rows), "tokens": asked.tokens, "licence": asked.pack.info.licence}
        sources.append(schema.SourceInfo(path=name, role="keep", **about))
    c = {k: sum(count[k] for count in counts.values()) for k in first.counts} if first.streamed else first.counts
    return schema.DataInfo(
        sources=sources,
        hash=first.hash,
        rows=c["rows"],
        tokens=c["tokens"],
        trained_tokens=c["trained_tokens"],
        dropped=c["zero_trained"] + c["left_out"],
        truncated=c["pieces"],
        bad=c["problems"],
    )


def trained_of(session: Session, results: dict[str, TrainingOutcome]) -> schema.Trained:
    structure = session.adapted.structure
    totals = parameters_by_role(structure, session.adapted.base_parameters())
    counts = {name: schema.RoleCounts(trained=0, total=n) for name, n in totals.items()}
    roles = {s.name: s.role for s in structure.every_site}
    for result in results.values():
        here: dict[str, int] = {}
        for name, n in result.trained_names.items():
            role = roles.get(module_of(name), "other")
            here[role] = here.get(role, 0) + n
        for role, n in here.items():
            count = counts.setdefault(role, schema.RoleCounts(trained=0))
            count.trained = max(count.trained, n)
    methods = [
        schema.MethodInfo(
            name=n,
            slots=list(type(m).slots()),
            parameters=m.model_dump(mode="json"),
            stage=part.spec.name,
            papers=list(type(m).papers),
        )
        for part in session.stages
        for n, m in part.methods
    ]
    frozen = [f"the base's {role} weights" for role, count in counts.items() if not count.trained]
    reshaped = sum(totals.values()) if session.adapted.surgeries() else None
    return schema.Trained(roles=counts, parameters=reshaped, methods=methods, frozen=frozen)


def order_of(session: Session, results: dict[str, TrainingOutcome]) -> str:
    """A hash of the rows that each stage draws, in order, over the steps it made: equal where two runs learn from equal
    rows.

    A mixture that follows what is learned may draw others than a fresh cursor gives; such a method cannot be told by
    this.
    """
    h = hashlib.sha256()
    for part in session.stages:
        if part.rows.streamed:  # drawn again they would be read again
            drawn = [
                part.rows.hash,
                part.train.seed,
                part.train.batch_tokens,
                part.data.shuffle_buffer,
                part.data.shuffle,
            ]
            h.update(f"{drawn} {results[part.spec.name].steps}\n".encode())
            continue
        cursor = session.cursor(part)
        for _ in range(results[part.spec.name].steps):
            h.update("\0".join(row.id for row, _ in cursor.next_batch()).encode() + b"\n")
    return h.hexdigest()[:16]


def stages_of(
    session: Session,
    results: dict[str, TrainingOutcome],
    metrics: list[dict[str, Any]],
    tasks: dict[str, dict[str, Interval]],
) -> list[schema.StageReport]:
    stages = []
    for part in session.stages:
        r = results[part.spec.name]
        losses = [m["loss"] for m in metrics if m.get("stage") == part.spec.name and "loss" in m]
        stages.append(
            schema.StageReport(
                name=part.spec.name,
                start=part.spec.start or "base",
                carry=part.spec.carry,
                methods=[n for n, _ in part.methods],
                ended_by=r.ended_by,
                steps=r.steps,
                tokens=r.tokens,
                epochs=None if part.rows.streamed else epochs_of(r.tokens, part.rows.counts["tokens"], part.replayed),
                steps_per_epoch=None
                if part.rows.streamed
                else steps_per_epoch(r.steps, r.tokens, part.rows.counts["tokens"], part.replayed),
                seconds=r.seconds,
                loss_first=losses[0] if losses else None,
                loss_last=losses[-1] if losses else None,
                best_step=r.best_step,
                tasks=tasks.get(part.spec.name, {}),
            )
        )
    return stages


def training_of(metrics: list[dict[str, Any]], results: dict[str, TrainingOutcome]) -> schema.Training | None:
    losses = [m["loss"] for m in metrics if "loss" in m]
    if not losses:
        return None
    tail = losses[-max(1, len(losses) // 10) :]
    lowest = min(range(len(losses)), key=losses.__getitem__)
    return schema.Training(
        steps=sum(r.steps for r in results.values()),
        first=losses[0],
        last=sum(tail) / len(tail),
        lowest=losses[lowest],
        lowest_step=lowest + 1,
        splits=sum(r.splits for r in results.values()),
    )


def cost_of(
    session: Session, cost: Cost, results: dict[str, TrainingOutcome], stored: tuple[int, int], cached: list[str]
) -> schema.Cost:
    tokens = sum(r.tokens for r in results.values())
    seconds = sum(r.seconds for r in results.values())
    return schema.Cost(
        seconds={n: round(p.seconds, 3) for n, p in cost.phases.items()},
        tokens=tokens,
        trained_tokens=sum(r.trained_tokens for r in results.values()),
        steps=sum(r.steps for r in results.values()),
        trainable_parameters=max((r.trainable for r in results.values()), default=0),
        stored_parameters=stored[0],
        stored_bytes=stored[1],
        peak_memory_bytes=cost.peak_cuda or cost.peak_memory,
        flops=cost.total.flops,
        flops_by_phase={n: p.flops for n, p in cost.phases.items() if p.flops},
        tokens_per_second=tokens / seconds if seconds else None,
        cached=cached,
    )


def answers_of(base: list[RowResult], tuned: list[RowResult]) -> list[schema.Answer]:
    """A few rows of each fate, so that a first look is fair: mended, broken, both wrong, both right."""
    fates: dict[tuple[bool, bool], list[Any]] = {}
    for row in pair(base, tuned):
        fates.setdefault((row.base_score >= 0.5, row.tuned_score >= 0.5), []).append(row)
    some = [r for rows in fates.values() for r in rows[: SHOWN // max(1, len(fates))]]
    return [schema.Answer.of(r) for r in some]


def views_of(session: Session) -> dict[str, list[tuple[str, float]]]:
    """One row per source, with the weight of each token in the loss."""
    if session.tokenizer is None:
        return {}
    return {
        d.name: [(t, float(w)) for t, w in token_view(d.rows[0], session.tokenizer)]
        for part in session.stages[:1]
        for d in part.rows.sources
    }


def versions() -> dict[str, str]:
    names = ("tunewright", "torch", "transformers", "tokenizers", "safetensors", "datasets", "numpy")
    return {"python": platform.python_version(), **{n: metadata.version(n) for n in names}}


def run_info(session: Session, name: str, progress: dict[str, Any], cost: Cost) -> schema.RunInfo:
    return schema.RunInfo(
        name=name,
        started=progress["started"],
        finished=progress.get("finished"),
        seconds=cost.total.seconds,
        resumed=progress.get("resumed", 0),
        attempt=progress.get("attempt"),
        command=progress.get("command"),
        versions=versions(),
        parts=parts_of(session),
        hardware=schema.Hardware(
            device=session.device,
            name=processor(session.device),
            cores=host.cores(),
            memory_bytes=host.total_memory(),
            precision=session.precision,
        ),
        threads=torch.get_num_threads(),
        load_at_start=cost.load_at_start,
        seed=session.seed,
    )


def processor(device: str) -> str:
    """The device's name as the system gives it."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name()
    return host.processor()


def model_info(session: Session) -> schema.ModelInfo:
    loaded = session.loaded
    return schema.ModelInfo(
        name=loaded.name,
        source=loaded.source,
        weights=f"{loaded.source}, computed in {str(loaded.dtype).removeprefix('torch.')}",
        hash=loaded.hash,
        licence=loaded.licence,
        parameters=session.adapted.base_size,
    )


def command() -> str:
    """The command line that made the run."""
    if not sys.argv:
        return ""
    name = Path(sys.argv[0]).name
    return " ".join(["python -m tunewright" if name == "__main__.py" else name, *sys.argv[1:]])
