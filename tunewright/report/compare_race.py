"""What the page and the table say of a race: who was dropped, when and why, and what that spared."""

from __future__ import annotations

from tunewright.report import words
from tunewright.report.compare_schema import ArmFigures, Comparison, compared


def dropped(arm: ArmFigures) -> str:
    """When a race dropped it; empty where it did not."""
    gone = arm.dropped
    return "" if gone is None else f"dropped after {gone.after} seeds"


def drops(c: Comparison) -> list[dict[str, str]]:
    """Every method that was dropped, the first one first, with the figures that it was dropped for."""
    gone = sorted((a.dropped.after, a.name) for a in c.arms if a.dropped is not None)
    return [_drop(c, c.arm(name)) for _, name in gone]


def _drop(c: Comparison, arm: ArmFigures) -> dict[str, str]:
    gone = arm.dropped
    assert gone is not None and c.race is not None
    limit = next(look.limit for look in c.race.looks if look.after == gone.after)
    return {
        "name": arm.name,
        "after": str(gone.after),
        "value": words.score(gone.difference.value, c.unit, sign=True),
        "span": words.span(gone.difference, c.unit),
        "why": f"behind {gone.behind}: the interval, {limit:.1f} standard errors wide at this look, does not hold 0",
    }


def race_words(c: Comparison) -> list[str]:
    """How the race went, in sentences; none where there was none."""
    race = c.race
    if race is None:
        return []
    gone = [a for a in c.arms if a.dropped is not None]
    seeds, arm = len(c.seeds), compared(c.arms)
    if not gone:
        return [f"The race dropped no {arm}: none was shown to be behind before all {seeds} seeds had been run."]
    each = "; ".join(f"{d['name']} after {d['after']}, {d['value']} [{d['span']}]" for d in drops(c))
    said = f"The race dropped {len(gone)} of {len(c.arms)} {arm}s before all {seeds} seeds had been run: {each}."
    made = sum(len(a.runs) for a in c.arms)
    flops = f" and {words.count(race.spared_flops)} FLOPs of training" if race.spared_flops else ""
    spared = "1 run was" if race.spared_runs == 1 else f"{race.spared_runs} runs were"
    return [
        said,
        f"{spared} spared, beside {made} that were made: about {words.seconds(race.spared_seconds)}{flops} by what "
        f"the same {arm}s' other runs took.",
    ]
