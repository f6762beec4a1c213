"""How long measuring takes, from reading a few rows of each kind with the code that a run measures with."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from tunewright.contract.batch import Row
from tunewright.machine.devices import sees, wait
from tunewright.measure import in_context
from tunewright.measure.cost import Cost
from tunewright.measure.drift import kl_by_row, sequence_rows, take_features, take_reference
from tunewright.measure.generate import greedy
from tunewright.measure.sample import sample_sequences
from tunewright.measure.text import prompt_ids
from tunewright.planning.estimated import Estimate
from tunewright.runs.meter import Meter
from tunewright.runs.selecting import subset
from tunewright.runs.session import Session, StageInputs

FEW = 16
"""Rows that are read to time a loss or a comparison."""
ANSWERED = 64
"""Rows that are answered to time generation: a batch of `measure.generate`, whose steps cost little more than a
row's.
"""
AT_ONCE = 2048
"""Tokens that a comparison with the base reads at once (`measure.drift`)."""
PLAYED = 4
"""Episodes that are played to time them."""
SAMPLED = 8
"""Tokens of each drift sequence, and of each answer to a pack, that are written to time it."""


def _seconds(work: Callable[[], Any]) -> float:
    """Seconds of a piece of work; what is done in under a second is done twice, since the first call pays for more."""
    spent = 0.0
    for _ in range(2):
        began = time.perf_counter()
        work()
        for device in ("cuda", "mps"):
            if sees(device):
                wait(device)
        spent = time.perf_counter() - began
        if spent >= 1.0:
            break
    return spent


@dataclass
class Readings:
    """Seconds of reading the model as it is: `whole` with choosing among labels, `plain` without. `compare` gives those
    of a comparison with the base, later."""

    whole: float
    plain: float
    kept: float
    packs: float
    compare: Callable[[], float]


def time_base(session: Session, found: Estimate) -> Readings:
    """Time what is measured on the base, from a few rows of each kind, and fill in what the base costs."""
    meter, spec = Meter(session, Cost()), session.recipe.measurement
    found.cached, sampled = meter.known()
    whole, plain = _target(session, len(meter.rows))
    kept = sum(_kept(session, name) for name in session.keep)
    packs = sum(_pack(session, name) for name in session.packs)
    read, compare = _drift(session, meter)
    few_shot = plain if meter.shows and spec.few_shot else 0.0
    sampling = 0.0 if sampled else _sampling(session, spec.drift_sequences, spec.drift_tokens)
    found.base = 0.0 if found.cached else whole + few_shot + kept + packs + read + sampling
    found.evaluations = sum(_evaluations(session, part) for part in session.stages)
    return Readings(whole, plain, kept, packs, compare)


def time_tuned(session: Session, found: Estimate, readings: Readings) -> None:
    """Fill in what measuring the tuned model costs, at each strength; its change is there now, folded as it will be."""
    with session.adapted.evaluating(), session.adapted.at_strength(1.0):
        compared = readings.compare()
    found.tuned = readings.whole + readings.kept + readings.packs + compared
    general = readings.kept + compared if session.recipe.sequence is not None and session.recipe.keep else 0.0
    found.between = (len(session.stages) - 1) * (readings.plain + general)
    if session.adapted.foldable:
        strengths = {*session.recipe.measurement.strengths} - {0.0, 1.0}
        rows, most = len(Meter(session, Cost()).rows), session.recipe.measurement.dial_rows
        share = min(1.0, most / rows) if most and rows else 1.0
        found.dial = len(strengths) * share * (readings.plain + readings.kept + compared)


def _spread(dataset: Any, most: int) -> Any:
    """At most `most` rows of a data set, from all over it."""
    n = len(dataset.rows)
    return subset(dataset, sorted({i * n // min(most, n) for i in range(min(most, n))}))


def _target(session: Session, n: int) -> tuple[float, float]:
    """Seconds to read n evaluated rows: with choosing among the labels, and without."""
    if n and (meter := Meter(replace(session, keep={}, packs={}), Cost())).plays:
        meter.rows, meter.others = meter.rows[:PLAYED], []
        read = _seconds(lambda: meter.read(choice=False, scores_only=True)) * n / len(meter.rows)
        return read, read
    if session.eval is None or not n:
        return 0.0, 0.0
    few = Meter(replace(session, eval=_spread(session.eval, ANSWERED), keep={}, packs={}), Cost())
    few.metric, few.generated, few.shows = (every := Meter(session, Cost())).metric, every.generated, every.shows
    few.labels, rows = every.labels, few.rows
    scale = n / len(rows)
    whole = _seconds(lambda: few.read(choice=True))
    return whole * scale, _seconds(lambda: few.read(choice=False, scores_only=True)) * scale


def _kept(session: Session, name: str) -> float:
    dataset = session.keep[name]
    few = _spread(dataset, FEW)
    meter = Meter(replace(session, eval=None, keep={name: few}, packs={}), Cost())
    return _seconds(lambda: meter.read(choice=False)) * dataset.counts["tokens"] / max(1, few.counts["tokens"])


def _pack(session: Session, name: str) -> float:
    """Seconds of a pack: a batch of its questions is answered, a few tokens each."""
    asked, most = session.packs[name], session.packs[name].pack.info.max_new_tokens
    rows, tokens = asked.rows[:ANSWERED], min(SAMPLED, most)
    prompts = [prompt_ids(row) for row in rows]
    model: Any = session.adapted.outer

    def write() -> None:
        if session.task.continues:
            greedy(model, session.tokenizer, prompts, tokens, rows=rows)
        else:
            session.task.write(model, session.tokenizer, prompts, tokens)

    return _seconds(write) * most / tokens * len(asked.rows) / len(rows)


def _drift(session: Session, meter: Meter) -> tuple[float, Callable[[], float]]:
    """Seconds of the base's reference, and what gives those of a comparison with it. Training rows stand in for the
    sampled ones: as many as the comparison takes at once, so that its memory is met too."""
    task, spec, stand_in = session.task, session.recipe.measurement, session.stages[0].rows.rows
    if meter.by_features:
        few = list(_spread(session.stages[0].rows, FEW).rows)

        def features() -> float:
            return _seconds(lambda: take_features(meter.model, task, few)) * len(meter.drift_rows) / len(few)

        return features(), features
    tokens = sum(r.size for r in meter.drift_rows) or spec.drift_sequences * spec.drift_tokens
    rows: list[Row] = []
    for row in stand_in:
        if rows and sum(r.size for r in rows) + row.size > min(tokens, AT_ONCE):
            break
        rows.append(row)
    rows = sequence_rows([r.input_ids for r in rows], 1) if task.continues else rows
    share = tokens / sum(r.size for r in rows)
    task = task.compared(meter.model.config)
    reference = take_reference(meter.model, task, rows, packed=session.packed, copy_head=True)
    read = _seconds(lambda: take_reference(meter.model, task, rows, packed=session.packed, copy_head=True)) * share
    return read, lambda: _seconds(lambda: kl_by_row(reference, meter.model)) * share


def _sampling(session: Session, n: int, tokens: int) -> float:
    """Seconds to sample the drift sequences. They are drawn token by token: a few of each are, and scaled."""
    few = min(SAMPLED, tokens)
    return _seconds(lambda: sample_sequences(session.adapted.model, session.tokenizer, n, few, 0)) * tokens / few


def _evaluations(session: Session, part: StageInputs) -> float:
    """Seconds of the evaluations on the way."""
    rows = session.validation or session.eval
    if rows is None or not part.train.eval_steps:
        return 0.0
    n = min(len(rows.rows), session.recipe.measurement.rows or 256)
    few = list(_spread(rows, FEW).rows)
    meter = Meter(session, Cost())
    times = (session.plan(part).steps - 1) // part.train.eval_steps + 1
    # the target is read on 64 rows at most, the loss on all
    once = _seconds(lambda: meter.quick(few)) * min(n, 64) / len(few)
    followed = session.recipe.measurement.along
    if followed:  # once more, before the first step
        once, times = once + _followed(session, meter, followed), times + 1
    return once * times


def _followed(session: Session, meter: Meter, names: list[str]) -> float:
    """Seconds to read once what is followed along a run; of the weights' distance, which reads no rows, none."""
    total = sum(_kept(session, name) for name in session.keep if name in names)
    if "drift" in names:
        total += _drift(session, meter)[1]()
    if "in-context" in names:
        made = [in_context.made(session.tokenizer, kind) for kind in in_context.KINDS]
        total += _seconds(lambda: [in_context.read(meter.model, session.task, rows) for rows in made])
    return total
