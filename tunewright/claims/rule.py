"""The rule by which every claim is judged. Written once, never by hand.

The unit is the seed: method and baseline run on the same rows in the same order, and each seed gives one effect e_s
(method minus baseline, positive where the method is better). With the 95 % t interval of their mean and the smallest
effect of interest d, which was written down before the first run:

    low > d: holds        high < d: fails        else: unclear

d may be negative (non-inferiority: "loses at most |d|"). Against several baselines the method must beat each: `holds`
takes every one (each at 97.5 % one-sided: an intersection-union test needs no correction), `fails` takes one of them
at a level divided by their number (Bonferroni). A claim that declares interval="seeds and rows" is judged by the t
interval over both (`measure.crossed`) instead. A seed without an effect (a run that failed, a figure that is not
finite, curves that cannot be compared) is counted and makes the verdict `unclear`: dropping it could only flatter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from tunewright.measure.crossed import Spread, crossed_interval
from tunewright.measure.intervals import Interval, t_interval

Direction = Literal["higher", "lower"]
Word = Literal["holds", "fails", "unclear"]

LEVEL = 0.95
_TAIL = (1 - LEVEL) / 2


class Verdict(BaseModel):
    """What the rule says. Effects are positive where the method is better."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    verdict: Word = Field(description="holds, fails or unclear")
    interval: Interval | None = Field(
        None,
        description="the effect's mean over seeds and its 95 % t interval, over rows too where the claim says so; of "
        "several baselines, the hardest one's",
    )
    smallest: float = Field(description="smallest effect of interest d")
    seeds: int = Field(ge=0, description="seeds that were run")
    usable: int = Field(ge=0, description="seeds that gave an effect against every baseline")
    p_holds: float | None = Field(
        None, description="one-sided p of an effect this large if it were d; of several baselines the largest"
    )
    p_fails: float | None = Field(
        None,
        description=(
            "one-sided p of an effect this small if it were d; of several baselines the smallest times their number"
        ),
    )
    reason: str | None = Field(None, description="why it is unclear, where that is not the interval")
    against: dict[str, Verdict] = Field(
        default_factory=dict, description="baseline -> what the rule says against it alone, where there are several"
    )

    @property
    def p(self) -> float:
        """Two-sided p of "the effect is d", for corrections over many claims; 1 where nothing could be judged."""
        if self.reason is not None or self.p_holds is None or self.p_fails is None:
            return 1.0
        return min(1.0, 2 * min(self.p_holds, self.p_fails))


def effects(
    method: Sequence[float | None], baseline: Sequence[float | None], direction: Direction, *, relative: bool = False
) -> list[float | None]:
    """One effect a seed: method minus baseline, or the other way round where lower is better; None where there is none.

    `relative`: as a share of the baseline's figure (0.1: a tenth better). ValueError when the numbers of seeds differ.
    """
    sign = 1.0 if direction == "higher" else -1.0
    differences: list[float | None] = []
    for m, b in zip(method, baseline, strict=True):
        if m is None or b is None or (relative and b == 0):
            differences.append(None)
            continue
        effect = sign * (m - b) / (abs(b) if relative else 1.0)
        differences.append(effect if math.isfinite(effect) else None)
    return differences


def verdict(
    differences: Sequence[float | None] | Mapping[str, Sequence[float | None]],
    smallest: float,
    spreads: Mapping[str, Spread | None] | None = None,
) -> Verdict:
    """Judge one effect a seed (None: the seed gave none), or a list of them for each baseline. See the module.

    `spreads`: of a claim that is judged over seeds and rows, baseline -> how sure the mean is over both; without one
    the verdict is unclear. ValueError when nothing is given or `smallest` is not finite.
    """
    if not math.isfinite(smallest):
        raise ValueError(f"the smallest effect of interest must be a number, got {smallest}")
    if not isinstance(differences, Mapping):
        return _one(differences, smallest)
    if not differences:
        raise ValueError("there is nothing to judge")
    each = {name: _one(values, smallest) for name, values in differences.items()}
    if spreads is not None:
        each = {name: _crossed(found, spreads.get(name)) for name, found in each.items()}
    return next(iter(each.values())) if len(each) == 1 else _all_of(each, differences, smallest)


def _one(values: Sequence[float | None], smallest: float) -> Verdict:
    there = [float(v) for v in values if v is not None and math.isfinite(v)]
    if not values:
        raise ValueError("there is nothing to judge")
    interval = t_interval(there, level=LEVEL) if there else None
    high_p, low_p = _p_values(there, smallest) if len(there) > 1 else (None, None)
    reason = None
    if len(there) < len(values):
        reason = f"{len(values) - len(there)} of {len(values)} seeds gave no effect"
    elif len(there) < 2:
        reason = "one seed says nothing about the spread over seeds"
    word = "unclear" if reason else _word(high_p, low_p)
    return Verdict(
        verdict=word,
        interval=interval,
        smallest=smallest,
        seeds=len(values),
        usable=len(there),
        p_holds=high_p,
        p_fails=low_p,
        reason=reason,
    )


NO_ROWS = (
    "its runs' records do not hold what each row gave, of the same rows for all: the interval is over seeds alone, and "
    "the claim is to be judged over rows too"
)


def _crossed(alone: Verdict, found: Spread | None) -> Verdict:
    """The verdict over seeds and rows, from that over seeds alone."""
    from scipy.special import stdtr

    if alone.reason is not None:
        return alone
    if found is None:
        return alone.model_copy(update={"verdict": "unclear", "reason": NO_ROWS})
    gap = found.mean - alone.smallest
    t = gap / found.error if found.error else math.copysign(math.inf, gap) if gap else 0.0
    high_p, low_p = float(stdtr(found.df, -t)), float(stdtr(found.df, t))
    return alone.model_copy(
        update={
            "verdict": _word(high_p, low_p),
            "interval": crossed_interval(found, level=LEVEL),
            "p_holds": high_p,
            "p_fails": low_p,
        }
    )


def _all_of(each: Mapping[str, Verdict], values: Mapping[str, Sequence[float | None]], smallest: float) -> Verdict:
    seeds = {v.seeds for v in each.values()}
    if len(seeds) > 1:
        raise ValueError(f"baselines have different numbers of seeds: {sorted(seeds)}")
    hardest = min(each.values(), key=lambda v: math.inf if v.interval is None else v.interval.value)
    usable = sum(all(x is not None and math.isfinite(x) for x in row) for row in zip(*values.values(), strict=True))
    reason = next((f"against {name}: {v.reason}" for name, v in each.items() if v.reason), None)
    p_holds = p_fails = None
    if reason is None:
        p_holds = max(v.p_holds for v in each.values() if v.p_holds is not None)
        p_fails = min(1.0, len(each) * min(v.p_fails for v in each.values() if v.p_fails is not None))
    word = "unclear" if reason else _word(p_holds, p_fails)
    return Verdict(
        verdict=word,
        interval=hardest.interval,
        smallest=smallest,
        seeds=seeds.pop(),
        usable=usable,
        p_holds=p_holds,
        p_fails=p_fails,
        reason=reason,
        against=dict(each),
    )


def _word(p_holds: float | None, p_fails: float | None) -> Word:
    if p_holds is not None and p_holds < _TAIL:
        return "holds"
    return "fails" if p_fails is not None and p_fails < _TAIL else "unclear"


def _p_values(x: Sequence[float], smallest: float) -> tuple[float, float]:
    """One-sided p of the mean being larger, and smaller, than `smallest`. Equal values decide by themselves."""
    from scipy.special import stdtr

    n = len(x)
    mean = math.fsum(x) / n
    spread = math.sqrt(math.fsum((v - mean) ** 2 for v in x) / (n - 1) / n)
    if spread == 0:
        return (0.0 if mean > smallest else 1.0, 0.0 if mean < smallest else 1.0)
    t = (mean - smallest) / spread
    return float(stdtr(n - 1, -t)), float(stdtr(n - 1, t))


def holm(p: Mapping[str, float], level: float = 1 - LEVEL) -> dict[str, bool]:
    """Which hypotheses Holm's step-down procedure rejects (Holm 1979): the chance of any false one is at most
    `level`.
    """
    rejected = dict.fromkeys(p, False)
    for i, name in enumerate(sorted(p, key=lambda n: p[n])):
        if p[name] > level / (len(p) - i):
            break
        rejected[name] = True
    return rejected


def holm_verdicts(verdicts: Mapping[str, Verdict]) -> dict[str, Word]:
    """The verdicts of a page that lists many: those that survive Holm's correction; the others become unclear."""
    kept = holm({name: v.p for name, v in verdicts.items()})
    return {name: v.verdict if kept[name] else "unclear" for name, v in verdicts.items()}
