"""Test time: a stream of rows that the tuned model answers in order, once as it is and once for each method that adapts
it, and what of it is refused before anything is loaded or trained.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tunewright import catalogue
from tunewright.contract.batch import Row
from tunewright.contract.class_check import check_class
from tunewright.contract.combining import check_serves
from tunewright.contract.method import Method
from tunewright.data import corruptions
from tunewright.data.position import permutation
from tunewright.errors import MethodError, RecipeError
from tunewright.files.checkpoint import write_text
from tunewright.measure._mode import measuring
from tunewright.measure.adapting import Guard, Stream
from tunewright.measure.rows import RowResult
from tunewright.measure.target import class_results, difference, get_metric, summary
from tunewright.models.flops import counting
from tunewright.recipe import MethodUse, Recipe
from tunewright.recipe.naming import numbered
from tunewright.report.adaptations import Adaptation, Restored, StreamPoint
from tunewright.report.measured import Measured
from tunewright.runs.folder import STREAM, RunFolder
from tunewright.runs.session import Session
from tunewright.runs.sources import task_for

STRETCHES = 20
_PART = "stream.{}.json"
"""What one method gave, until all have been asked: a run that is stopped between two does not ask the first again."""


def check(recipe: Recipe) -> None:
    """Refuse what the recipe alone shows: a task without classes, no rows, methods that do not adapt, base in 4 bits.

    Raises RecipeError or MethodError.
    """
    spec = recipe.test_time
    if spec is None:
        return
    if not task_for(recipe).classifies:
        raise MethodError(
            f"a stream is answered by classes, and {task_for(recipe).called} rows have none",
            where="test_time",
            remedy="write task: text-classification or image-classification, or leave test_time out",
        )
    if spec.data is None and not recipe.data.eval:
        raise RecipeError("there are no rows for a stream", where="test_time.data", remedy="write data.eval, or a file")
    for text in spec.corruptions:
        try:
            corruptions.parsed(text)
        except ValueError as error:
            what, _, remedy = str(error).partition("; ")
            raise RecipeError(what, where="test_time.corruptions", remedy=remedy) from None
    if spec.corruptions and not task_for(recipe).is_a("image-classification"):
        raise RecipeError(
            f"corruptions are of pictures, and the task is {recipe.task}",
            where="test_time.corruptions",
            remedy="take them out, and name changed rows under test_time.data",
        )
    held = [u.name for stage in recipe.stages for u in stage.methods if catalogue.load_method(u.name).quantises]
    for use in spec.adapt:
        _check_method(use, recipe, held)


def _check_method(use: MethodUse, recipe: Recipe, held: Sequence[str]) -> None:
    cls = catalogue.load_method(use.name, use.place)
    where = use.place or "test_time"
    if "adapt" not in cls.slots():
        raise MethodError(
            f"'{use.name}' does nothing at test time: it fills {', '.join(cls.slots())}",
            where=where,
            remedy="write one of: " + ", ".join(_known()),
        )
    check_class(cls)
    method = catalogue.build(use)
    check_serves(use.name, method, task_for(recipe), where)
    if held and not method.quantised:
        raise MethodError(
            f"'{use.name}' moves the model's own weights, and '{held[0]}' holds them in 4 bits",
            where=where,
            remedy=f"use lora in the place of '{held[0]}'",
        )


def _known() -> list[str]:
    return [n for n, e in catalogue.entries().items() if e.room == "methods/test_time"]


def rows_of(session: Session, evaluated: Sequence[Row]) -> list[Row]:
    """The stream's rows in the order in which they come; `evaluated` are those of the target."""
    spec = session.recipe.test_time
    assert spec is not None
    rows = list(session.stream.rows) if session.stream is not None else list(evaluated)
    rows = rows[: spec.rows] if spec.rows else rows
    if spec.corruptions:
        rows = corruptions.stream(rows, spec.corruptions, session.seed)
    if spec.order == "shuffled":
        rows = [rows[i] for i in permutation(len(rows), session.seed, "test-time", 0)]
    return rows


def opened(use: MethodUse, name: str, session: Session, rows: int = 0) -> Stream:
    """A method's stream on the session's model as it is. MethodError where the method cannot work on it."""
    spec = session.recipe.test_time
    assert spec is not None
    method: Method = catalogue.build(use)
    return Stream(
        name,
        method,
        session.adapted,
        session.task,
        seed=session.seed,
        reset=spec.reset,
        guard=Guard(spec.guard, spec.guard_answers),
        steps=-(-rows // spec.batch_rows),
    )


def rehearse(session: Session) -> None:
    """Let every method look at the model, and the rows be made, so that what cannot work is refused before training."""
    spec = session.recipe.test_time
    if spec is None:
        return
    evaluated = list(session.eval.rows)[:1] if session.eval is not None else []
    first = list(session.stream.rows)[:1] if session.stream is not None else evaluated
    if spec.corruptions:
        corruptions.stream(first, spec.corruptions[:1], session.seed)
    for name, use in zip(numbered([u.name for u in spec.adapt]), spec.adapt, strict=True):
        opened(use, name, session)


def announced(session: Session) -> list[str]:
    """A sentence for a plan: what will be read at test time, and by whom."""
    spec = session.recipe.test_time
    if spec is None:
        return []
    some = session.stream or session.eval
    count = min(len(some.rows), spec.rows or len(some.rows)) if some is not None else 0
    rows = count * max(1, len(spec.corruptions))
    names = ", ".join(numbered([u.name for u in spec.adapt]))
    return [
        f"after training, a stream of {rows:,} rows is answered without adaptation and by {names}, without labels: "
        "this time is not in the estimate"
    ]


@dataclass
class _Answered:
    """What one pass over the stream gave, and what it took."""

    results: list[RowResult]
    seconds: float
    flops: float


def measure(session: Session, evaluated: Sequence[Row], metric: str, folder: RunFolder) -> list[Adaptation]:
    """Every method on the whole stream, each from the tuned weights, beside no adaptation on the same rows.

    Call inside `adapted.at_strength(1.0)`: the model's weights are afterwards as they were, in every bit. Each row's
    answers are written to stream.jsonl.
    """
    spec = session.recipe.test_time
    assert spec is not None
    metric = metric if metric and get_metric(metric).kind == "classified" else "accuracy"
    rows = rows_of(session, evaluated)
    plain = _plain(session, rows, spec.batch_rows)
    found, answers = [], {"": plain.results}
    names = numbered([u.name for u in spec.adapt])
    for name, use in zip(names, spec.adapt, strict=True):
        done = folder.file(_PART.format(name))
        if done.exists():  # an earlier process of this run answered the whole stream by it
            one = json.loads(done.read_text(encoding="utf-8"))
            answers[name] = [RowResult(**r) for r in one["rows"]]
            found.append(Adaptation(**one["adaptation"]))
            continue
        stream = opened(use, name, session, len(rows))
        with stream, counting() as counted:
            start = time.perf_counter()
            batches = stream.batches(rows, spec.batch_rows, mixed=spec.order == "shuffled")
            given = [stream.answer(some).float().cpu() for some in batches]
            spent = time.perf_counter() - start
        online = _Answered(_results(session, rows, given), spent, counted.total)
        answers[name] = online.results
        found.append(_adaptation(stream, plain, online, metric, len(batches), spec.batch_rows))
        part = {"adaptation": found[-1].model_dump(mode="json"), "rows": [r.model_dump() for r in online.results]}
        write_text(done, json.dumps(part))
    _write(folder, answers)
    for name in names:
        folder.file(_PART.format(name)).unlink()
    return found


def _plain(session: Session, rows: Sequence[Row], size: int) -> _Answered:
    model = session.adapted.outer
    start = time.perf_counter()
    with measuring(model), counting() as counted:
        given = [
            session.task.forward(model, session.task.collate(rows[i : i + size]).to(session.device))
            .logits.float()
            .cpu()
            for i in range(0, len(rows), size)
        ]
    return _Answered(_results(session, rows, given), time.perf_counter() - start, counted.total)


def _results(session: Session, rows: Sequence[Row], logits: Sequence[Tensor]) -> list[RowResult]:
    reader = session.tokenizer or session.loaded.processor
    return list(class_results(session.adapted.model.config, reader, rows, torch.cat(list(logits))))


def _adaptation(
    stream: Stream, plain: _Answered, online: _Answered, metric: str, batches: int, batch_rows: int
) -> Adaptation:
    before, after = plain.results, online.results
    sources = list(dict.fromkeys(r.source for r in before))
    places = {s: [i for i, r in enumerate(before) if r.source == s] for s in sources}
    by_source = [_compared([before[i] for i in at], [after[i] for i in at], metric, s) for s, at in places.items()]
    return Adaptation(
        **_compared(before, after, metric).model_dump(),
        method=stream.name,
        parameters=stream.method.model_dump(mode="json"),
        papers=list(type(stream.method).papers),
        sources=by_source if len(sources) > 1 else [],
        curve=_curve(before, after, metric),
        order=hashlib.sha256("\0".join(r.id for r in before).encode()).hexdigest(),
        batches=batches,
        batch_rows=1 if stream.reset == "row" else batch_rows,
        reset=stream.reset or "never",
        restored=[Restored(batch=r.batch, why=r.why) for r in stream.restored],
        moved_parameters=sum(p.numel() for p in stream.moving.parameters.values()),
        forwards=stream.forward.calls,
        backwards=stream.moving.backwards,
        flops=online.flops,
        flops_without=plain.flops,
        seconds=round(online.seconds, 3),
        seconds_without=round(plain.seconds, 3),
    )


def _compared(
    before: Sequence[RowResult], after: Sequence[RowResult], metric: str, name: str | None = None
) -> Measured:
    return Measured(
        name=name,
        metric=metric,
        before=summary(before, metric),
        after=summary(after, metric),
        difference=difference(before, after, metric),
        n=len(before),
    )


def _curve(before: Sequence[RowResult], after: Sequence[RowResult], metric: str) -> list[StreamPoint]:
    """The stream in stretches of equal length; means of rows, whatever the metric's figure over all of them is."""
    n, parts = len(before), min(STRETCHES, len(before))
    ends = [(i + 1) * n // parts for i in range(parts)]
    points, start = [], 0
    for end in ends:
        means = [sum(r.score for r in side[start:end]) / (end - start) for side in (before, after)]
        points.append(StreamPoint(rows=end, without=means[0], online=means[1]))
        start = end
    return points


def _write(folder: RunFolder, answers: dict[str, list[RowResult]]) -> None:
    """stream.jsonl: each row in the order in which it came, what was expected, and what each method answered."""
    lines = []
    for i, row in enumerate(answers[""]):
        said = {name: results[i].answer for name, results in answers.items() if name}
        line: dict[str, Any] = {"id": row.id, "source": row.source, "reference": row.reference}
        lines.append(json.dumps({**line, "without": row.answer, "online": said}, ensure_ascii=False))
    write_text(folder.file(STREAM), "\n".join(lines) + "\n")
