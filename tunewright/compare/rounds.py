"""The runs of a race, a seed at a time: what is run next hangs on the figures so far alone, so that an interrupted race
goes on to the same end, whatever ran side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from tunewright.compare.figures import one_row, run_figures
from tunewright.compare.racing import FIRST, Race
from tunewright.compare.result import Comparison
from tunewright.report.compare_schema import RaceFigures
from tunewright.trials.pool import Trial
from tunewright.trials.trial import TrialRecord, key_of

Run = Callable[[Sequence[Trial]], dict[str, TrialRecord]]
At = tuple[str, int]  # (arm, seed)


class Told(Protocol):
    """Who is told how the race goes."""

    total: int

    def say(self, text: str) -> None: ...


@dataclass(frozen=True)
class Raced:
    """A race that was run: the records of all runs that were made."""

    race: Race
    records: Mapping[At, TrialRecord]

    def tell(self, comparison: Comparison, planned: Mapping[str, int]) -> None:
        """Put into a comparison who was dropped, and what that spared; `planned`: runs of each arm without a race."""
        runs, seconds, flops, counted = 0, 0.0, 0.0, True
        for name, gone in self.race.dropped.items():
            comparison.arm(name).dropped = gone
            left = planned[name] - gone.after
            own = [run_figures(r) for (arm, _), r in self.records.items() if arm == name]
            booked = [r.flops_per_token * r.tokens for r in own if r.flops_per_token and r.tokens]
            runs += left
            seconds += left * sum(r.seconds for r in own) / len(own)
            flops += left * sum(booked) / max(1, len(booked))
            counted = counted and bool(booked)
        comparison.race = RaceFigures(
            looks=self.race.looks(),
            spared_runs=runs,
            spared_seconds=seconds,
            spared_flops=flops if counted else None,
        )


def run_race(trials: Mapping[At, Trial], seeds: Sequence[int], run: Run, told: Told) -> Raced:
    """Run trials by seed, all seeds before the first look at once, without those that the race has dropped.

    The last one left runs all its seeds: its own gain is to be known as well as was asked for.
    """
    names = list(dict.fromkeys(name for name, _ in trials))
    race = Race(names, len(seeds))
    records: dict[At, TrialRecord] = {}
    for batch in (seeds[:FIRST], *([s] for s in seeds[FIRST:])):
        asked = {(name, seed): trials[name, seed] for seed in batch for name in race.racing}
        found = run(list(asked.values()))
        records |= {at: found[key_of(t.recipe)] for at, t in asked.items()}
        _scale(race, list(records.values()))
        for seed in batch:
            gains = {name: run_figures(records[name, seed]).gain for name in race.racing}
            for name in race.hear(gains):
                gone = race.dropped[name]
                told.total -= len(seeds) - gone.after
                told.say(f"{name} is dropped after {gone.after} of {len(seeds)} seeds: it is behind {gone.behind}")
    return Raced(race, records)


def _scale(race: Race, records: Sequence[TrialRecord]) -> None:
    """What differences can be at all, by any run that has figures."""
    some = next((r for r in records if r.finished), None)
    if some is None:
        return
    race.least = one_row(some.target_unit, some.evaluated)
    race.bounds = (-1.0, 1.0) if some.target_unit == "fraction" else race.bounds
