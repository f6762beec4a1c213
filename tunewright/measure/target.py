"""The target: how well a model does what it is adapted to, row by row, under the ecosystem's metric names.

Generated metrics ask the model and compare texts; teacher-forced ones read the answer; classified ones take the
likeliest class; paired ones hold a preferred answer against the other; predicted ones compare what the task says of a
row; ranked ones read where a query's right texts stand (`measure.ranked`); played ones tell what episodes give
(`measure.episodes`). Other packages add theirs by the entry-point group "tunewright.metrics". Every function keeps one
RowResult a row, since paired tests and the reader need them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from tunewright.contract.batch import Batch, Outputs, Row
from tunewright.contract.metric import Metric
from tunewright.contract.pairs import Pair, paired
from tunewright.contract.task import Task
from tunewright.errors import RecipeError
from tunewright.measure import _kv, episodes, ranked, text
from tunewright.measure._mode import device_of, measuring
from tunewright.measure.among import among
from tunewright.measure.choose import choice_results, choose_after, distinct_labels, label_tokens, likelihood_choice
from tunewright.measure.few_shot import few_shot
from tunewright.measure.generate import Settled, continue_greedily, greedy, stop_ids
from tunewright.measure.intervals import (
    SHARE,
    Bounds,
    Interval,
    bootstrap_mean,
    bootstrap_statistic,
    paired_difference,
    paired_proportions,
    wilson,
)
from tunewright.measure.metrics import METRICS as METRICS
from tunewright.measure.metrics import _added as _added
from tunewright.measure.metrics import check_metric, check_rows, get_metric
from tunewright.measure.metrics import metric_names as metric_names
from tunewright.measure.rows import RowResult

__all__ = [
    "METRICS",
    "Metric",
    "answers_and_choices",
    "answer_length",
    "difference",
    "distinct_labels",
    "evaluate",
    "few_shot",
    "get_metric",
    "likelihood_choice",
    "longest_answer",
    "summary",
]


def answer_length(rows: Sequence[Row], spare: int = 2) -> int:
    """Tokens of the longest reference answer plus `spare`: an answer cut there could not have matched any more."""
    return max((len(r.input_ids) - len(text.prompt_ids(r)) for r in rows), default=0) + spare


def longest_answer(task: Task, rows: Sequence[Row], most: int) -> int:
    """Tokens that an answer may have where a recipe allows `most`. A transcript may be as long as the longest is: cut
    ones would count as words that were not heard.
    """
    if task.reads_audio:
        return max((len(r.input_ids) - len(r.fields.get("prompt_ids", ())) for r in rows), default=0) + 2
    return min(most, answer_length(rows))


def evaluate(
    model: PreTrainedModel,
    tokenizer: Any,
    task: Task,
    rows: Sequence[Row],
    metric: str,
    *,
    max_new_tokens: int | None = None,
    batch_tokens: int = 2048,
    stop: Collection[int] | None = None,
    packed: bool = False,
    scores_only: bool = False,
    num_beams: int | None = None,
) -> list[RowResult]:
    """Score every row under `metric`. `max_new_tokens`: None takes `answer_length(rows)`. `packed`: padding-free
    teacher-forced forwards, for models prepared for them. `scores_only`: an answer whose score is settled is not
    written to its end; scores are the same. `num_beams`: beams of a task that writes by the model's own `generate`;
    None: as its generation config says. Raises RecipeError for a metric the task cannot serve."""
    m = check_metric(metric, task)
    if m.kind == "generated" and not task.continues:
        asked, how = [task.asked(row) for row in rows], {} if num_beams is None else {"num_beams": num_beams}
        with measuring(model):
            length = max_new_tokens or longest_answer(task, rows, 1 << 30)
            answers = task.write(model, tokenizer, asked, length, **how)
        return _compared(tokenizer, rows, answers, m)
    if m.kind == "generated":
        answers = greedy(
            model,
            tokenizer,
            [text.prompt_ids(row) for row in rows],
            max_new_tokens or answer_length(rows),
            stop,
            batch_tokens=batch_tokens,
            settled=_settled(tokenizer, rows, m) if scores_only else None,
            rows=rows,
        )
        return _compared(tokenizer, rows, answers, m)
    if m.kind == "played":
        return episodes.play(model, rows, m)
    check_rows(metric, task, rows)
    if m.kind == "ranked":
        return ranked.rankings(model, task, rows, m, batch_tokens)
    if metric == "loss" and task.couples == "batch":
        return ranked.losses(model, task, rows, batch_tokens)
    if m.kind == "paired":
        rows = [_pair(row, metric) for row in rows]
    make = {"classified": _classified, "paired": _preferred, "predicted": _predicted}.get(m.kind, _teacher_forced)
    results: list[RowResult | None] = [None] * len(rows)
    with measuring(model):
        for indices in _kv.batches_by_length([r.size for r in rows], batch_tokens, 64):
            some = [rows[i] for i in indices]
            batch = task.collate(some, packed).to(device_of(model))
            outputs = task.forward(model, batch)
            made, noted = make(model, tokenizer, task, some, batch, outputs, m), _noted(outputs, len(some))
            for i, result, notes in zip(indices, made, noted, strict=True):
                results[i] = result.model_copy(update={"notes": notes})
    return [r for r in results if r is not None]


def _noted(outputs: Outputs, count: int) -> list[dict[str, float]]:
    """What was noted once in this forward of each of its `count` rows, as a number."""
    notes = {} if outputs.present is None else outputs.present.notes
    rows = {n: told[0].float().tolist() for n, told in notes.items() if len(told) == 1 and told[0].shape == (count,)}
    return [{n: told[k] for n, told in rows.items()} for k in range(count)]


def answers_and_choices(
    model: PreTrainedModel,
    tokenizer: Any,
    rows: Sequence[Row],
    labels: Sequence[str],
    metric: str = "exact_match",
    *,
    max_new_tokens: int | None = None,
    batch_tokens: int = 2048,
    stop: Collection[int] | None = None,
    full: bool = False,
) -> tuple[list[RowResult], list[RowResult]]:
    """A generated metric and the choice by likelihood among `labels`, from one reading of the prompts.

    Gives what `evaluate` and `likelihood_choice` give, about a third cheaper.
    """
    m, asked = get_metric(metric), [text.prompt_ids(row) for row in rows]
    tokens, length = label_tokens(tokenizer, rows, labels), max_new_tokens or answer_length(rows)
    ends = set(stop_ids(model, tokenizer) if stop is None else stop)
    if not _kv.caches_plainly(model):
        answers = greedy(model, tokenizer, asked, length, ends, rows=rows)
        return _compared(tokenizer, rows, answers, m), likelihood_choice(model, tokenizer, rows, labels, full=full)
    scores, answers = torch.full((len(rows), len(labels)), -torch.inf), [list[int]() for _ in rows]
    with measuring(model):
        for part in _kv.read(model, asked, room=length, batch_tokens=batch_tokens, asked=rows):
            scores[part.indices] = choose_after(model, part, tokens, full=full).cpu()
            for i, answer in continue_greedily(model, part, length, ends):
                answers[i] = answer
    return _compared(tokenizer, rows, answers, m), choice_results(tokenizer, rows, labels, scores, full=full)


def bounds_of(metric: Metric, scores: Sequence[float]) -> Bounds | None:
    """0 to 1 for scores that are shares: those of proportions, and other rates where none lies beyond."""
    shares = metric.proportion or metric.is_rate and metric.kind != "played" and all(0 <= s <= 1 for s in scores)
    return SHARE if shares else None


def summary(results: Sequence[RowResult], metric: str, *, seed: int = 0) -> Interval:
    """The figure of a metric over rows and its interval: Wilson for proportions, else the row bootstrap ("this
    run").
    """
    m = get_metric(metric)
    results = [r for r in results if r.weight > 0] if m.kind == "ranked" else results
    if m.figure is not None:
        figure = m.figure
        return bootstrap_statistic(
            lambda index: figure([results[i] for i in index]), len(results), seed=seed, bounds=m.bounds
        )
    if m.proportion:
        return wilson(round(sum(r.score for r in results)), len(results))
    scores = [r.score for r in results]
    return bootstrap_mean(scores, weights=[r.weight for r in results], seed=seed, bounds=bounds_of(m, scores))


def figure_of(results: Sequence[RowResult], metric: str) -> float:
    """The figure of a metric over at least one row, without an interval: rows count alike, unless it weighs them."""
    m = get_metric(metric)
    if m.figure is not None:
        return m.figure(results)
    weighs = m.weigh is not None or m.kind == "ranked"
    weights = [r.weight if weighs else 1.0 for r in results]
    return sum(r.score * w for r, w in zip(results, weights, strict=True)) / max(1e-9, sum(weights))


def difference(before: Sequence[RowResult], after: Sequence[RowResult], metric: str, *, seed: int = 0) -> Interval:
    """The metric after minus before, on the same rows, which are resampled as pairs."""
    m = get_metric(metric)
    figure = m.figure
    if m.kind == "ranked":  # a query counts once
        kept = [(b, a) for b, a in zip(before, after, strict=True) if b.weight > 0]
        before, after = [b for b, _ in kept], [a for _, a in kept]
    if figure is None:
        weights = [b.weight for b in before]
        sides = [b.score for b in before], [a.score for a in after]
        if m.proportion and all(w == 1 for w in weights):
            return paired_proportions(*sides, seed=seed)
        bounds = bounds_of(m, [*sides[0], *sides[1]])
        return paired_difference(*sides, weights=weights, seed=seed, bounds=bounds)

    def of(index: np.ndarray) -> float:
        return figure([after[i] for i in index]) - figure([before[i] for i in index])

    bounds = m.bounds
    wide = None if bounds is None else bounds[1] - bounds[0]
    return bootstrap_statistic(of, len(before), seed=seed, bounds=None if wide is None else (-wide, wide))


def _settled(tokenizer: Any, rows: Sequence[Row], m: Metric) -> Settled | None:
    """When an answer's score is known; None where only its end tells: a decoder that tidies spaces takes back what
    stands before a word."""
    misses = m.misses
    if misses is None or getattr(tokenizer, "clean_up_tokenization_spaces", False):
        return None
    wanted = [text.reference(row) for row in rows]
    return lambda i, said: misses(text.answer_text(tokenizer, said), wanted[i])


def _compared(tokenizer: Any, rows: Sequence[Row], answers: Sequence[Sequence[int]], m: Metric) -> list[RowResult]:
    assert m.compare is not None
    said = [text.answer_text(tokenizer, a) for a in answers]
    return [
        RowResult(
            id=row.id,
            source=row.source,
            prompt=text.prompt_text(tokenizer, row),
            answer=a,
            reference=text.reference(row),
            score=m.compare(a, text.reference(row)),
            weight=1.0 if m.weigh is None else m.weigh(text.reference(row)),
        )
        for row, a in zip(rows, said, strict=True)
    ]


def _teacher_forced(
    model: PreTrainedModel, tokenizer: Any, task: Task, rows: Sequence[Row], batch: Batch, outputs: Outputs, m: Metric
) -> Iterator[RowResult]:
    """A row's weighted mean over its labels; the row weighs the sum of their weights."""
    assert m.per_label is not None
    own = (
        outputs.scores is not None or m.per_label is METRICS["loss"].per_label
    )  # a task's loss may be another than cross-entropy
    values = (task.loss(outputs, batch).value if own else m.per_label(outputs, batch)).float()
    zero = torch.zeros(len(rows), device=values.device)
    weight = zero.index_add(0, batch.rows, batch.weights)
    total = zero.index_add(0, batch.rows, values * batch.weights)
    for row, t, w in zip(rows, total.tolist(), weight.tolist(), strict=True):
        asked = "prompt_ids" in row.fields
        yield RowResult(
            id=row.id,
            source=row.source,
            prompt=text.prompt_text(tokenizer, row) if asked else "",
            reference=str(row.fields.get("reference", "")),
            score=t / w if w else 0.0,
            weight=w,
        )


def _classified(
    model: PreTrainedModel, tokenizer: Any, task: Task, rows: Sequence[Row], batch: Batch, outputs: Outputs, m: Metric
) -> Iterator[RowResult]:
    return class_results(model.config, tokenizer, rows, outputs.logits)


def class_results(config: Any, tokenizer: Any, rows: Sequence[Row], logits: Tensor) -> Iterator[RowResult]:
    """Rows' results from logits [R, V] of a classifier whose config names its classes."""
    names = getattr(config, "id2label", None) or {}
    every = torch.softmax(among(rows, logits.float()), -1)
    shares, chosen = every.max(-1)
    for k, (row, share, i) in enumerate(zip(rows, shares.tolist(), chosen.tolist(), strict=True)):
        assert row.label is not None
        yield RowResult(
            id=row.id,
            source=row.source,
            prompt=tokenizer.decode(row.input_ids, skip_special_tokens=True) if row.input_ids else _heard(row),
            answer=str(names.get(i, i)),
            reference=str(names.get(row.label, row.label)),
            score=float(i == row.label),
            confidence=share,
            likelihood=float(every[k, row.label]),
        )


def _heard(row: Row) -> str:
    """What is shown of a recording; "" of a picture."""
    return str(row.fields.get("text", ""))


def _predicted(
    model: PreTrainedModel, tokenizer: Any, task: Task, rows: Sequence[Row], batch: Batch, outputs: Outputs, m: Metric
) -> Iterator[RowResult]:
    """What the task says of each row, compared with what is right."""

    def given(row: Row) -> str:
        read = tokenizer.decode(row.input_ids, skip_special_tokens=True) if row.input_ids else ""
        return str(row.fields.get("text", read))

    for row, (answer, reference) in zip(rows, task.predict(outputs, batch, rows), strict=True):
        yield RowResult(
            id=row.id,
            source=row.source,
            prompt=given(row),
            answer=answer,
            reference=reference,
            score=float(answer == reference) if m.compare is None else m.compare(answer, reference),
        )


def _pair(row: Row, metric: str) -> Pair:
    """The row as a pair. RecipeError for a row with one answer."""
    if "rejected_ids" not in row.fields:
        what = f"'{metric}' compares a chosen answer with a rejected one, and the row {row.id} has one answer"
        raise RecipeError(
            what,
            where="measurement.metric",
            remedy="give data.eval rows with prompt, chosen and rejected, or write metric: auto",
        )
    return paired(row)


def _preferred(
    model: PreTrainedModel, tokenizer: Any, task: Task, rows: Sequence[Row], batch: Batch, outputs: Outputs, m: Metric
) -> Iterator[RowResult]:
    """Whether the chosen answer is the likelier one, or the one of the higher score; equal ones are no hit.

    Every target counts whole, whatever its loss weight.
    """
    log_probs = (outputs.log_probs() if outputs.scores is None else outputs.scores).double()
    side, zero = (
        2 * batch.rows + batch.fields["pair"],
        torch.zeros(2 * len(rows), dtype=torch.float64, device=log_probs.device),
    )
    total = zero.index_add(0, side, log_probs)
    if m.mean:
        total = total / zero.index_add(0, side, torch.ones_like(log_probs)).clamp(min=1)
    for row, (chosen, rejected) in zip(rows, total.view(-1, 2).tolist(), strict=True):
        answers = [
            text.answer_text(tokenizer, ids[_start(row) :]).strip()
            for ids in (row.input_ids, row.fields["rejected_ids"])
        ]
        yield RowResult(
            id=row.id,
            source=row.source,
            prompt=text.prompt_text(tokenizer, row),
            answer=answers[chosen <= rejected],
            reference=answers[0],
            score=float(chosen > rejected),
        )


def _start(row: Row) -> int:
    return len(text.prompt_ids(row))
