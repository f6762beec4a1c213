"""From trials' records to a comparison: means over seeds, ties said as ties, and what is kept at one common target.

The unit is the seed. The best arm is the one with the largest mean gain among those whose seeds all finished; every
other arm is compared with it seed by seed, judged for the best having been picked after the fact (`standing`).

The common target of a seed is the base plus nine tenths of the smallest best gain among the arms that reach at least
half of the largest mean gain and whose gain is shown (its interval over seeds lies above 0); others have hardly learnt,
and what they keep says nothing. Each arm's curve over
strengths is read where it first gets there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tunewright.compare import over_rows
from tunewright.compare.standing import compare_with_best
from tunewright.measure.intervals import Bounds, Interval, t_interval
from tunewright.measure.trade import at_target
from tunewright.report.compare import shown
from tunewright.report.compare_schema import Against, ArmFigures, Comparison, CurvePoint, RunFigures
from tunewright.trials.trial import Reading, TrialRecord

SHARE = 0.9
REACH = 0.5
_ENDLESS = math.inf


def sign_of(direction: str) -> float:
    return 1.0 if direction == "higher" else -1.0


def interval(values: Sequence[float | None], bounds: Bounds | None = None) -> Interval | None:
    """The mean over seeds and its t interval, within what the figure can be; None where no seed has a figure."""
    there = [v for v in values if v is not None and math.isfinite(v)]
    return t_interval(there, bounds=bounds) if there else None


@dataclass(frozen=True)
class Bounded:
    """What a comparison's figures can be at all: no interval is wider."""

    target: Bounds
    gain: Bounds
    difference: Bounds
    drift: Bounds

    @classmethod
    def of(cls, comparison: Comparison) -> Bounded:
        base, share = comparison.base_target, comparison.unit == "fraction"
        drift = (0.0, 1.0) if comparison.drift_measure == "1-cka" else (0.0, _ENDLESS)
        target = (0.0, 1.0 if share else _ENDLESS)
        sign = sign_of(comparison.direction)
        ends = (-_ENDLESS, _ENDLESS) if base is None else sorted(sign * (end - base) for end in target)
        return cls(target, (ends[0], ends[1]), (-1.0, 1.0) if share else (-_ENDLESS, _ENDLESS), drift)


def run_figures(record: TrialRecord) -> RunFigures:
    """One seed's figures at full strength."""
    tuned, cost = record.tuned, record.cost
    error = record.error
    figures = RunFigures(
        seed=record.seed,
        status=record.status,
        error=f"{error.type}: {error.message}" + (f" ({error.where})" if error.where else "") if error else None,
        seconds=record.seconds,
        key=record.key,
        attempt=record.attempt,
    )
    if not record.finished or tuned is None:
        return figures
    spent = cost.get("seconds", {})
    base = record.base
    figures.target, figures.drift = tuned.target, tuned.drift
    if tuned.target is not None and base.target is not None:
        figures.gain = sign_of(record.direction) * (tuned.target - base.target)
    figures.sequence = dict(record.sequence)
    figures.kept = {n: v - base.kept[n] for n, v in tuned.kept.items() if n in base.kept}
    figures.packs = {n: v - base.packs[n] for n, v in tuned.packs.items() if n in base.packs}
    figures.tokens, figures.steps = cost.get("tokens"), cost.get("steps")
    if cost.get("flops_by_phase") and figures.tokens:  # reports of before hold an estimate, in which all are the same
        figures.flops_per_token = sum(cost["flops_by_phase"].values()) / figures.tokens
    figures.train_seconds = spent.get("train")
    figures.setup_seconds = sum(spent.get(p, 0.0) for p in ("set-up", "generation", "selection", "statistics"))
    figures.peak_memory_bytes = cost.get("peak_memory_bytes")
    return figures


CHANGE: Bounds = (-1.0, 1.0)
"""What the change of a share can be."""


def names_of_packs(runs: Sequence[RunFigures]) -> list[str]:
    """The packs that any run answered, in order."""
    return list(dict.fromkeys(n for r in runs for n in r.packs))


def mean_kept(reading: Reading) -> float | None:
    """Mean loss over the entries of `keep`."""
    return sum(reading.kept.values()) / len(reading.kept) if reading.kept else None


def readings(record: TrialRecord) -> list[Reading]:
    """The curve: the base and all strengths, rising."""
    return [record.base, *sorted(record.strengths, key=lambda r: r.strength)]


def curve(records: Sequence[TrialRecord], bounded: Bounded) -> list[CurvePoint]:
    """The strengths that every finished seed has, over seeds, above 0."""
    finished = [r for r in records if r.finished]
    points = []
    for strength in sorted({x.strength for r in finished for x in r.strengths}):
        here = [next((x for x in r.strengths if x.strength == strength), None) for r in finished]
        if any(x is None or x.target is None for x in here):
            continue
        target = interval([x.target for x in here if x is not None], bounded.target)
        if target is not None:
            kept, drift = (
                interval([mean_kept(x) for x in here if x is not None], (0.0, _ENDLESS)),
                interval([x.drift for x in here if x is not None], bounded.drift),
            )
            points.append(CurvePoint(strength=strength, target=target, kept=kept, drift=drift))
    return points


def _gains(record: TrialRecord) -> list[tuple[float, float, Reading]]:
    """(strength, gain over the base, reading) along the curve, where the target is there."""
    sign, base = sign_of(record.direction), record.base.target
    return [
        (r.strength, sign * (r.target - base), r) for r in readings(record) if r.target is not None and base is not None
    ]


def common_targets(by_arm: Mapping[str, Mapping[int, TrialRecord]], compared: Sequence[str]) -> dict[int, float]:
    """Seed -> the gain at which arms are compared; seeds where an arm has no run, or gains nothing, have none."""
    targets = {}
    for seed in sorted({s for records in by_arm.values() for s in records}):
        best = []
        for arm in compared:
            record = by_arm[arm].get(seed)
            gains = [g for _, g, _ in _gains(record)] if record is not None and record.finished else []
            best.append(max(gains, default=0.0))
        if best and min(best) > 0:
            targets[seed] = SHARE * min(best)
    return targets


def at_common(record: TrialRecord, gain: float) -> tuple[float | None, float | None]:
    """(mean change of kept losses, drift) where the curve first reaches a gain; None where it has no such figure."""
    points = _gains(record)
    base = mean_kept(record.base)
    lost = [(s, g, k - base) for s, g, r in points if (k := mean_kept(r)) is not None and base is not None]
    drift = [(s, g, r.drift) for s, g, r in points if r.drift is not None]
    return at_target(lost, gain), at_target(drift, gain)


def fill(
    comparison: Comparison,
    records: Mapping[str, Mapping[int, TrialRecord]],
    kept: Mapping[str, Mapping[int, TrialRecord]] | None = None,
) -> None:
    """Put every figure of the arms' records (arm -> seed -> record) into the comparison, and choose the winner.

    `kept`: the records from which what is lost at the common target is read: at the smallest of rates that are tied.
    """
    seeds, bounded = comparison.seeds, Bounded.of(comparison)
    for arm in comparison.arms:
        own = [records[arm.name][s] for s in seeds if s in records[arm.name]]  # a race may have dropped it
        arm.runs = [run_figures(r) for r in own]
        _sum_up(arm, own, bounded)
    _judge_gain(comparison, bounded)
    over_rows.fill(comparison, records, bounded.gain, bounded.difference)
    _judge_kept(comparison, kept if kept is not None else records, bounded, records)
    comparison.winner, comparison.why = winner(comparison)


def _sum_up(arm: ArmFigures, records: Sequence[TrialRecord], bounded: Bounded) -> None:
    runs = arm.finished
    arm.gain = interval([r.gain for r in runs], bounded.gain)
    arm.target = interval([r.target for r in runs], bounded.target)
    arm.lost = interval([sum(r.kept.values()) / len(r.kept) for r in runs if r.kept])
    arm.packs = {n: i for n in names_of_packs(runs) if (i := interval([r.packs.get(n) for r in runs], CHANGE))}
    arm.drift = interval([r.drift for r in runs], bounded.drift)
    named = dict.fromkeys(n for r in runs for n in r.sequence)
    arm.sequence = {n: i for n in named if (i := interval([r.sequence.get(n) for r in runs], _between(n, bounded)))}
    arm.curve = curve(records, bounded)
    first = next((r for r in records if r.finished), None)
    if first is None:
        return
    arm.parameters = {m["name"]: m["parameters"] for m in first.trained.get("methods", [])}
    for name in ("trainable_parameters", "stored_parameters", "stored_bytes"):
        setattr(arm, name, first.cost.get(name))
    arm.serves = first.serves
    for name in ("train_seconds", "setup_seconds", "tokens", "flops_per_token", "peak_memory_bytes"):
        values = [v for r in runs if (v := getattr(r, name)) is not None]
        setattr(arm, name, sum(values) / len(values) if values else None)
    arm.notes = sorted({n for r in records if r.finished for n in r.notes if not n.startswith("only ")})


def _between(name: str, bounded: Bounded) -> Bounds:
    """What a figure of a sequence can be at all."""
    if name == "held_bytes":
        return (0.0, _ENDLESS)
    return bounded.target if name == "incremental_accuracy" else bounded.difference


def _judge_gain(comparison: Comparison, bounded: Bounded) -> None:
    race = comparison.race
    gains = {a.name: [r.gain for r in a.runs] for a in comparison.arms if a.dropped is None and not a.joint}
    least = one_row(comparison.unit, comparison.evaluated)  # seeds that differ by as many rows are no certainty
    far = race.looks[-1].limit if race is not None else None
    against = compare_with_best(gains, bounded.difference, far=far, least=least)
    for arm in [a for a in comparison.arms if not a.joint]:
        gone = arm.dropped
        arm.against = against[arm.name] if gone is None else Against(word="behind the best", difference=gone.difference)


def one_row(unit: str, evaluated: int | None) -> float:
    """The least by which two shares of so many rows can differ; 0 for what is no share."""
    return 1 / evaluated if unit == "fraction" and evaluated else 0.0


def _judge_kept(
    comparison: Comparison,
    records: Mapping[str, Mapping[int, TrialRecord]],
    bounded: Bounded,
    at_best: Mapping[str, Mapping[int, TrialRecord]],
) -> None:
    """What arms lose at the common target; `at_best`: their records at the best rate, to say what hangs on the rate."""
    gains = {a.name: a.gain.value for a in comparison.arms if a.gain is not None and shown(a) and not a.joint}
    most = max(gains.values(), default=0.0)
    compared = [
        n
        for n, g in gains.items()
        if most > 0 and g >= REACH * most and len(comparison.arm(n).finished) == len(comparison.seeds)
    ]
    targets = common_targets(records, compared)
    for arm in comparison.arms:
        if arm.name not in compared:
            continue
        for run in arm.runs:
            if run.seed in targets:
                run.lost_at_target, run.drift_at_target = at_common(records[arm.name][run.seed], targets[run.seed])
        arm.lost_at_target = interval([r.lost_at_target for r in arm.runs])
        if records[arm.name] != at_best[arm.name]:
            other = [at_common(at_best[arm.name][s], gain)[0] for s, gain in targets.items()]
            arm.lost_at_best_rate = interval(other)
        arm.drift_at_target = interval([r.drift_at_target for r in arm.runs], bounded.drift)
    if len(compared) > 1 and targets and any(a.lost_at_target for a in comparison.arms):
        at = {n: [_negative(r.lost_at_target) for r in comparison.arm(n).runs if r.seed in targets] for n in compared}
        for name, against in compare_with_best(at).items():
            comparison.arm(name).lost_against = against


def _negative(x: float | None) -> float | None:
    return None if x is None else -x


def winner(comparison: Comparison) -> tuple[str | None, str]:
    """Of the methods that are best or tied in gain, and whose gain is shown, the one that loses least at the common
    target, else drifts least there, else stores least. None, and why, where no gain is shown.
    """
    best = next((a for a in comparison.arms if a.against is not None and a.against.word == "best"), None)
    if best is None or best.gain is None:
        return None, "no method finished a run"
    equal = [best, *(a for a in comparison.arms if a.against is not None and a.against.word == "tied with the best")]
    tied = [a for a in equal if shown(a)]
    if not tied:
        few = "one seed says nothing about the spread over seeds" if best.gain.low is None else "its interval holds 0"
        return None, f"no gain is shown, not even that of {best.name}: {few}"
    if len(equal) == 1:
        return best.name, "it gained most, and every other method is behind it or did not finish"
    if len(tied) == 1:
        return tied[0].name, f"of {len(equal)} methods that are tied in gain it alone has a gain that is shown"
    for read, what in (
        (lambda a: a.lost_at_target, "loses least of what was to be kept at the common target"),
        (lambda a: a.drift_at_target, "drifts least at the common target"),
    ):
        measured = [(i.value, a.name) for a in tied if (i := read(a)) is not None]
        if len(measured) == len(tied):
            return min(measured)[1], f"{len(tied)} methods are tied in gain; of these it {what}"
    stored = [(a.stored_bytes, a.name) for a in tied if a.stored_bytes is not None]
    if len(stored) == len(tied):
        return min(stored)[1], f"{len(tied)} methods are tied in gain; of these it stores least"
    return max((a.gain.value, a.name) for a in tied if a.gain is not None)[1], (
        f"{len(tied)} methods are tied in gain; its mean is the largest"
    )
