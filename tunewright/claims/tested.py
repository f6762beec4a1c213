"""Whether a comparison tested anything: at a floor or a ceiling an effect says nothing, whatever it is.

A result is `not tested`, with the reasons, where

    its baseline has not learnt       the mean gain over the untouched base is not shown (its 95 % interval over seeds
                                      reaches 0), or a share's is less than `learnt` of what there was to gain
    every arm is at 0                 no run of any arm got anything right (or wrong, where less is better)
    its baseline leaves no room       what it could still gain is less than the smallest effect of interest d
    its method has hardly redrawn     a method that searches by drawing anew had fewer than `DRAWS` turns
    its premise is not so             a base that is said to be the better one is not, on held-out text
    no seed gave an effect            all runs failed, or no two curves could be compared

Claims about time and memory are about no gain, and only the last two are asked of them. All is read off the stored
result: nothing is run. Where a result is not tested its effect and interval stay as they were found.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path

from tunewright.claims import metrics
from tunewright.claims.claim import Claim
from tunewright.claims.results_io import ArmResult, ScaleResult
from tunewright.measure.intervals import t_interval

DRAWS = 10
"""Turns that a method needs whose places are found by drawing anew: fewer leave it where it began."""
BETTER = 0.05
"""Nats a token by which a base has to be better than another one where that is the premise."""
UNTOUCHED = "base"
"""The name under which a claim's own `measure` gives the untouched base's figure."""
BASES = Path(__file__).parent / "lab" / "bases"
_OWN_COST = ("cost.<field>", "seconds per step")


def settle(claim: Claim, result: ScaleResult) -> None:
    """Give a result whose effects are judged its verdict: what the rule says, or that nothing was tested and why."""
    assert result.judged is not None
    result.untested = untested(claim, result)
    result.verdict = "not tested" if result.untested else result.judged.verdict
    result.interval = result.judged.interval.model_dump(mode="json") if result.judged.interval else None


def untested(claim: Claim, result: ScaleResult) -> str | None:
    """Why the stored result of a claim (at its scale) tested nothing, all reasons in one; None where it did."""
    about_cost = metrics.find(claim.metric)[0].pattern in _OWN_COST
    of_gain = (
        []
        if about_cost
        else [
            *_floor(claim, result),
            *_nowhere(claim, result),
            *_ceiling(claim, result),
            *_redraws(claim, result),
        ]
    )
    return "; ".join([*of_gain, *_premise(claim), *_nothing(result)]) or None


def _floor(claim: Claim, result: ScaleResult) -> Iterator[str]:
    for arm, gains, room in _gains(claim, result):
        mean = sum(gains) / len(gains)
        low = t_interval(gains).low
        if low is None or low <= 0:
            yield f"the baseline '{arm}' has not learnt: its gain over the untouched base is {mean:+.3g}"
        elif room is not None and mean < claim.learnt * room:
            yield (
                f"the baseline '{arm}' has hardly learnt: it gains {mean:.3g} of {room:.3g}, and what is claimed shows "
                f"from {claim.learnt * room:.3g} on"
            )


def _nowhere(claim: Claim, result: ScaleResult) -> Iterator[str]:
    figures = [r.figure for arm in result.arms for r in arm.runs if r.figure is not None]
    if claim.metric in ("target", "measured") and figures and not any(figures):
        yield "every arm is at 0 in every seed"


def _gains(claim: Claim, result: ScaleResult) -> Iterator[tuple[str, list[float], float | None]]:
    """Each baseline's (name, gain over the base in every seed, what there was to gain where the figure is a share)."""
    for arm in _baselines(claim, result):
        before, after = _ends(arm, result.arms[0], claim)
        if not after:
            continue
        share = result.is_share if claim.metric != "measured" else max(*before, *after) <= 1
        sign = 1.0 if _higher(claim, result) else -1.0
        gains = [sign * (a - b) for b, a in zip(before, after, strict=True)]
        yield arm.name, gains, 1.0 - sum(before) / len(before) if share and sign > 0 else None


def _ends(arm: ArmResult, first: ArmResult, claim: Claim) -> tuple[list[float], list[float]]:
    """The untouched base's figure and the tuned model's, of each seed that has both."""
    if claim.metric == "measured":
        pairs = [(m.other.get(UNTOUCHED), r.figure) for m, r in zip(first.runs, arm.runs, strict=True)]
    else:
        pairs = [(r.base.target if r.base else None, r.tuned) for r in arm.runs]
    both = [(b, a) for b, a in pairs if b is not None and a is not None]
    return [b for b, _ in both], [a for _, a in both]


def _higher(claim: Claim, result: ScaleResult) -> bool:
    """Which way the figure is better that tells whether an arm has learnt."""
    return claim.direction == "higher" if claim.metric in ("target", "measured") else result.is_share


def _baselines(claim: Claim, result: ScaleResult) -> list[ArmResult]:
    named = {b.name for b in claim.baselines}
    return [a for a in result.arms if a.name in named]


def _ceiling(claim: Claim, result: ScaleResult) -> Iterator[str]:
    if claim.metric not in ("target", "measured") or claim.smallest <= 0 or claim.relative:
        return
    for arm in _baselines(claim, result):
        figures = [r.figure for r in arm.runs if r.figure is not None]
        if not figures or (claim.direction == "higher" and not (result.is_share and max(figures) <= 1)):
            continue
        mean = sum(figures) / len(figures)
        room = 1.0 - mean if claim.direction == "higher" else mean
        if room < claim.smallest:
            yield (
                f"the baseline '{arm.name}' leaves no room: it has {mean:.3g}, and {claim.smallest:g} better cannot be"
            )


def _redraws(claim: Claim, result: ScaleResult) -> Iterator[str]:
    steps = result.amount.steps if result.amount is not None else None
    if claim.redraws is not None and steps is not None and steps < DRAWS * claim.redraws:
        yield (
            f"'{claim.method.name}' has hardly drawn: it draws anew every {claim.redraws} steps, at least {DRAWS} "
            f"times to be tested, and there were {steps} steps"
        )


def _premise(claim: Claim) -> Iterator[str]:
    if claim.better_base is None:
        return
    better, other = claim.better_base
    nats = [held_nats(better), held_nats(other)]
    if nats[0] is not None and nats[1] is not None and nats[1] - nats[0] < BETTER:
        yield (
            f"the premise is not so: '{better}' is to be the better base, and has {nats[0]:.3f} nats a token on "
            f"held-out text where '{other}' has {nats[1]:.3f}"
        )


@functools.cache
def held_nats(base: str) -> float | None:
    """A lab base's loss on held-out text, as its card has it; None where there is no such card."""
    card = BASES / base / "card.json"
    return json.loads(card.read_text(encoding="utf-8")).get("held_nats") if card.is_file() else None


def _nothing(result: ScaleResult) -> Iterator[str]:
    judged = result.judged
    if judged is not None and judged.usable == 0:
        yield f"no seed gave an effect{_why(result)}"


def _why(result: ScaleResult) -> str:
    said = [m["reason"] for p in result.pairs for m in p.matched if "reason" in m]
    return f": {said[0]}" if said else ""
