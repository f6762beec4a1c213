"""The dial: the change measured at strengths between the base (0) and the tuned model (1), on all or on fewer rows.

What is known already is not measured again: at 0 the model is its base, at 1 the tuned one. Where fewer rows are
asked for (`measurement.dial_rows`), the ends are summed up on the same rows, so that a curve is of one kind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunewright.runs.work import Work

if TYPE_CHECKING:
    from tunewright.report.schema import Strength
    from tunewright.runs.readings import Readings


def dial(work: Work, tuned: Readings) -> list[Strength]:
    """The trade at each of the recipe's strengths, rising, and at both ends where it is not of all rows; empty where
    the change cannot be dialled."""
    from tunewright.runs import results, telling

    adapted, meter = work.session.adapted, work.meter
    strengths = {float(s) for s in work.recipe.measurement.strengths}
    if not adapted.foldable:
        return []
    part = meter.part() if strengths - {0.0, 1.0} else None
    known = {1.0: tuned}
    if meter.predictor is None:  # what decodes in its place is no base at strength 0
        known[0.0] = meter.base_read()
    points = []
    for strength in sorted(strengths if part is None else {*strengths, 0.0, 1.0}):
        if strength in known:
            points.append(results.strength_of(meter, strength, meter.restricted(known[strength], part)))
            continue
        work.screen.say(f"measuring at strength {strength:g}")
        with work.cost.phase("dial measured"), adapted.at_strength(strength):
            points.append(results.strength_of(meter, strength, meter.read(choice=False, part=part, scores_only=True)))
        work.screen.say(telling.of_strength(meter, points[-1]))
    return points
