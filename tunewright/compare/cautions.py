"""What a reader of a comparison has to know before believing its table."""

from __future__ import annotations

import math
from collections.abc import Mapping

from tunewright.recipe import Recipe
from tunewright.report.compare_schema import Comparison, compared
from tunewright.report.words import one_counted, row_of, rows_of, score, span
from tunewright.trials.trial import TrialRecord

MORE = 1.5
"""Times as much compute as the least that the winner may take without a word."""


def cautions(made: Comparison, records: Mapping[str, Mapping[int, TrialRecord]], recipe: Recipe) -> list[str]:
    """What a reader has to know before believing the table, most important first."""
    said = []
    rows = f"{row_of(made.metric, made.task)}s"
    lost = sum(r.status != "finished" for a in made.arms for r in a.runs)
    if lost:
        said.append(
            f"{lost} of {sum(len(a.runs) for a in made.arms)} runs did not finish; their {compared(made.arms)}s "
            "cannot be ranked on equal terms"
        )
    if not made.tuned:
        said.append(_untuned_rates(made, recipe))
    said += _unequal_compute(made)
    said += _tied_rates(made)
    edge = [a.name for a in made.arms if a.rate_at_edge]
    if edge:
        said.append(f"the best learning rate of {', '.join(edge)} is the outermost one that was tried")
    orders = {
        s: {r.order for n, of in records.items() if not made.arm(n).joint and (r := of.get(s)) and r.finished}
        for s in made.seeds
    }
    same_length = not {"seconds", "flops"} & made.budget.keys()
    if any(a.select is not None for a in made.arms):
        names = " and ".join(use.name for use in recipe.stages[0].methods)
        said.append(
            f"each arm is what its selectors keep, trained on with {names} under one budget; what choosing took is in "
            "compute and set-up"
        )
    elif same_length and any(len(o) > 1 for o in orders.values()):
        said.append("not all methods saw the same rows in the same order: one of them chooses its own rows")
    measures = {r.drift_measure for by_seed in records.values() for r in by_seed.values() if r.finished}
    if len(measures) > 1:
        said.append("drift was measured in different ways: it is not compared")
    if len(made.seeds) < 5:
        n = len(made.seeds)
        said.append(
            f"{n} seed{'s tell' if n > 1 else ' tells'} little about the spread over seeds: a tie may mean no more "
            "than too few of them"
        )
    if made.evaluated is not None and made.evaluated < 200 and made.unit == "fraction":
        few = rows_of(made.metric, made.evaluated, made.task)
        said.append(f"only {few} measured the target: differences of a few per cent cannot be seen")
    said += _fixed_rows(made)
    if len(made.arms) > 2 and made.winner is not None:
        said.append(
            f"the winner was chosen by these very {rows}, which flatters it a little: fresh {rows} tell what it is "
            "worth"
        )
    return said


def _unequal_compute(made: Comparison) -> list[str]:
    """That the winner had more compute than another arm under a budget that does not count it."""
    counted = {a.name: a.flops_per_token for a in made.arms if a.flops_per_token}
    if made.winner not in counted or made.budget.keys() & {"flops", "seconds"}:
        return []
    times = counted[made.winner] / min(counted.values())
    if times < MORE:
        return []
    least = min(counted, key=lambda n: counted[n])
    return [
        f"the budget counts no compute: the winner computes {times:.2g} times as much {one_counted(made.task)} as "
        f"{least} (--budget flops=N gives all the same)"
    ]


def _untuned_rates(made: Comparison, recipe: Recipe) -> str:
    rate, arm = recipe.train.learning_rate, compared(made.arms)
    if rate is None:
        each = ", ".join(f"{a.name} {a.rate:g}" for a in made.arms if a.rate is not None)
        return (
            f"learning rates were not tuned: each {arm} ran at its own by rule ({each}), which may suit one better "
            "than another (--tune chooses one for each)"
        )
    own = [a.name for a in made.arms if a.rate != rate]
    but = f" (their own: {', '.join(own)})" if own else ""
    return (
        f"learning rates were not tuned: all {arm}s ran at the recipe's {rate:g}{but}, which favours those it was "
        "chosen for (--tune chooses one for each)"
    )


def _fixed_rows(made: Comparison) -> list[str]:
    """That other rows would have given other figures, which no interval over seeds knows of; of a share by how much."""
    if made.evaluated is None:
        return []
    rows = f"{row_of(made.metric, made.task)}s"
    judged = rows_of(made.metric, made.evaluated, made.task)
    said = f"every seed was judged on the same {judged}: what other {rows} would give is in no interval"
    if any(a.gain_over_rows is not None for a in made.arms):
        said += f" over seeds, by which {compared(made.arms)}s are called tied or behind"
    best = next((a for a in made.arms if a.against is not None and a.against.word == "best"), None)
    if best is not None and best.gain_over_rows is not None:
        ends = f"{score(best.gain_over_rows.value, made.unit, sign=True)} [{span(best.gain_over_rows, made.unit)}]"
        return [f"{said} (over seeds and {rows} {best.name} gains {ends})"]
    if best is None or best.target is None or made.unit != "fraction":
        return [said]
    share = min(max(best.target.value, 0.0), 1.0)
    error = 100 * math.sqrt(share * (1 - share) / made.evaluated)
    return [f"{said} (one standard error of {best.name}'s figure by its {rows} alone: {error:.1f} points)"]


def _tied_rates(made: Comparison) -> list[str]:
    """Where several rates learn as well, at which of them losses were compared, and what hangs on that."""
    tied = [a for a in made.arms if a.rate is not None and a.rates_tied and min(a.rates_tied) < a.rate]
    if not tied:
        return []
    hangs = [
        f"{a.name} {a.lost_at_target.value:+.3f} at {min(a.rates_tied):.2g}, "
        f"{a.lost_at_best_rate.value:+.3f} at {a.rate:.2g}"
        for a in tied
        if a.lost_at_target is not None and a.lost_at_best_rate is not None
    ]
    said = (
        "smaller learning rates did as well as the best within the noise of tuning for "
        f"{', '.join(a.name for a in tied)}: "
        "what is lost at the common target was compared at the smallest of them"
    )
    return [f"{said} (nats a token: {'; '.join(hangs)})" if hangs else said]
