"""From the records of all seeds of all arms to effects and a verdict. Pure: nothing is run here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from tunewright.claims import metrics
from tunewright.claims.claim import Claim
from tunewright.claims.matched import match
from tunewright.claims.results_io import ArmResult, Crossed, Figures, PairResult, RunResult
from tunewright.claims.rule import Verdict, effects, verdict
from tunewright.errors import ClaimError
from tunewright.measure.crossed import Spread, spread

ALONE = "nothing"  # the baseline of a figure that stands alone


def run_result(claim: Claim, seed: int, record: Any) -> RunResult:
    """One record as it is stored with a claim."""
    finished = record.status == "finished"
    matched = metrics.find(claim.metric)[2]
    return RunResult(
        seed=seed,
        status=record.status,
        error=f"{record.error.type}: {record.error.message}" if record.error is not None else None,
        figure=metrics.value(record, claim.metric) if finished and not matched else None,
        base=_figures(record.base, 0.0) if finished else None,
        strengths=[_figures(r, r.strength) for r in record.strengths] if finished else [],
        seconds=metrics.number(record.seconds),
        key=record.key,
        attempt=record.attempt,
    )


def _figures(reading: Any, strength: float) -> Figures:
    kept = {n: metrics.number(v) for n, v in reading.kept.items()}
    return Figures(
        strength=strength,
        target=metrics.number(reading.target),
        kept={n: v for n, v in kept.items() if v is not None},
        drift=metrics.number(reading.drift),
    )


def pair_up(claim: Claim, method: Sequence[Any], baseline: Sequence[Any], name: str) -> PairResult:
    """The effects of the method's records over a baseline's, seed by seed. A run that did not finish gives none."""
    if not metrics.find(claim.metric)[2]:
        figures = [
            [metrics.value(r, claim.metric) if r.status == "finished" else None for r in records]
            for records in (method, baseline)
        ]
        return PairResult(
            baseline=name,
            effects=effects(figures[0], figures[1], claim.direction, relative=claim.relative),
            crossed=_crossed(claim, method, baseline) if claim.interval == "seeds and rows" else None,
        )
    gaps: list[float | None] = []
    said = []
    for m, b in zip(method, baseline, strict=True):
        if m.status != "finished" or b.status != "finished":
            gaps.append(None)
            said.append({"reason": "a run did not finish"})
            continue
        at = match(
            metrics.curve(m, claim.metric), metrics.curve(b, claim.metric), m.direction, reach=claim.reach, at=claim.at
        )
        gaps += effects([at.method], [at.baseline], claim.direction, relative=claim.relative)
        said.append({k: v for k, v in asdict(at).items() if v is not None})
    return PairResult(baseline=name, effects=gaps, matched=said)


def judge_records(
    claim: Claim, records: Mapping[str, Sequence[Any]], best: str | None = None
) -> tuple[list[PairResult], Verdict]:
    """Every pair, and the verdict. `best`: the baseline that did best on validation, for claims against that one alone.

    ClaimError when an arm lacks seeds: nothing is judged before every run is there.
    """
    _complete(claim, {name: len(runs) for name, runs in records.items()})
    _check_direction(claim, records[claim.method.name])
    pairs = [pair_up(claim, records[claim.method.name], records[b.name], b.name) for b in claim.baselines]
    return pairs, judge_pairs(claim, pairs, best)


def judge_pairs(claim: Claim, pairs: Sequence[PairResult], best: str | None = None) -> Verdict:
    """What the rule says of pairs, or of the one against the best baseline."""
    judged = {p.baseline: p for p in pairs if best is None or p.baseline == best}
    both = claim.interval == "seeds and rows"
    spreads = {name: _spread(p) for name, p in judged.items()} if both else None
    return verdict({name: p.effects for name, p in judged.items()}, claim.smallest, spreads)


def _spread(pair: PairResult) -> Spread | None:
    there = [e for e in pair.effects if e is not None]
    if pair.crossed is None or not there:
        return None
    found = pair.crossed
    return Spread(sum(there) / len(there), found.error, found.df, len(there), found.rows)


def _crossed(claim: Claim, method: Sequence[Any], baseline: Sequence[Any]) -> Crossed | None:
    """Over seeds and rows; None where a record does not hold its rows, or not the same ones."""
    runs = [*method, *baseline]
    rows = [r.rows for r in runs if getattr(r, "rows", None) is not None]
    if len(method) < 2 or len(rows) < len(runs) or not all(r.same_rows(rows[0]) for r in rows):
        return None
    sign = 1.0 if claim.direction == "higher" else -1.0
    gaps = [sign * (m.rows.values - b.rows.values) for m, b in zip(method, baseline, strict=True)]
    if len(gaps[0]) < 2:
        return None
    found = spread(np.stack(gaps), rows[0].counts)
    return Crossed(error=found.error, df=found.df, rows=found.rows)


def _check_direction(claim: Claim, records: Sequence[Any]) -> None:
    direction = next((r.direction for r in records if r.status == "finished"), None)
    if claim.metric == "target" and direction is not None and direction != claim.direction:
        raise ClaimError(
            f"the claim says that {claim.direction} is better, the task's metric that {direction} is",
            remedy=f"write direction='{direction}'",
        )


def _complete(claim: Claim, counted: Mapping[str, int]) -> None:
    for arm in claim.arms:
        if counted.get(arm.name, 0) != claim.seeds:
            raise ClaimError(
                f"'{arm.name}' has {counted.get(arm.name, 0)} of {claim.seeds} seeds: nothing is judged before all "
                "are there"
            )


def judge_measured(
    claim: Claim, values: Sequence[Mapping[str, float] | None], best: str | None = None
) -> tuple[list[PairResult], Verdict]:
    """The same for what a claim's own `measure` gave: a figure an arm and seed (None: the seed failed)."""
    _complete(claim, dict.fromkeys((a.name for a in claim.arms), len(values)))
    columns = {a.name: [None if v is None else metrics.number(v.get(a.name)) for v in values] for a in claim.arms}
    method = columns[claim.method.name]
    if not claim.baselines:
        pairs = [PairResult(baseline=ALONE, effects=effects(method, [0.0] * len(method), claim.direction))]
    else:
        pairs = [
            PairResult(
                baseline=b.name, effects=effects(method, columns[b.name], claim.direction, relative=claim.relative)
            )
            for b in claim.baselines
        ]
    return pairs, verdict({p.baseline: p.effects for p in pairs if best is None or p.baseline == best}, claim.smallest)


def measured_arms(
    claim: Claim, values: Sequence[Mapping[str, float] | None], errors: Sequence[str | None], first: int = 0
) -> list[ArmResult]:
    """What `measure` gave from seed `first` on, arm by arm; figures under other names stand with the method's runs."""
    names = {a.name for a in claim.arms}
    arms = []
    for arm in claim.arms:
        runs = []
        for seed, (by_arm, error) in enumerate(zip(values, errors, strict=True), first):
            other = {k: float(v) for k, v in (by_arm or {}).items() if k not in names} if arm is claim.method else {}
            figure = None if by_arm is None else metrics.number(by_arm.get(arm.name))
            runs.append(
                RunResult(
                    seed=seed,
                    status="failed" if by_arm is None else "finished",
                    error=error,
                    figure=figure,
                    other=other,
                )
            )
        arms.append(ArmResult(name=arm.name, methods=arm.methods, runs=runs))
    return arms
