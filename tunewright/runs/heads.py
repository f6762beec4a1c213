"""What a run is measured on: the rows and metric of its headline, and others that are shown beside it.

Most runs have one: evaluated rows. A policy has its environments, too: the first one's return is the headline, unless
the recipe asks for another metric; what stands beside it are the other environments and the recorded actions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tunewright.contract.batch import Row
from tunewright.measure.episodes import RETURN, rows_of
from tunewright.measure.metrics import get_metric
from tunewright.runs.judged import judged
from tunewright.runs.session import Session

APART = 1_000_000
"""How far the seeds of episodes that are played while training lie from those that are judged by."""
RECORDED = "recorded actions"


@dataclass(frozen=True)
class Head:
    """Rows, what they are measured by, and what they are called in a report."""

    rows: list[Row]
    metric: str
    name: str = ""

    @property
    def key(self) -> str:
        """What readings keep it by."""
        return f"{self.metric} {self.name}"


def heads_of(session: Session) -> tuple[Head, list[Head]]:
    """(the headline, what stands beside it)."""
    recipe, task = session.recipe, session.task
    rows, asked = judged(session.eval, recipe, session.options.labels or ()), recipe.measurement.metric
    played = _episodes(session)
    plays = asked == "auto" or get_metric(asked).kind == "played"
    if not played or not plays:
        metric = (task.default_metric(rows) if asked == "auto" else asked) if rows else ""
        return Head(rows, metric), played
    recorded = [Head(rows, name, RECORDED) for name in (task.default_metric(rows), "loss")] if rows else []
    return played[0], [*played[1:], *recorded]


def practice_of(session: Session) -> list[Row]:
    """Episodes of the headline's environment that are played while training, and judge nothing."""
    place = (session.recipe.measurement.environment or [])[0]
    return rows_of(place.model_dump(mode="json"), place.called, apart=APART)


def _episodes(session: Session) -> list[Head]:
    spec = session.recipe.measurement
    metric = spec.metric if spec.metric != "auto" and get_metric(spec.metric).kind == "played" else RETURN
    places = spec.environment or []
    return [Head(rows_of(p.model_dump(mode="json"), p.called), metric, p.called) for p in places]


def read_rows(head: Head, others: Sequence[Head]) -> list[Row]:
    """The evaluated rows that are read and not played."""
    for one in (head, *others):
        if one.metric and get_metric(one.metric).kind != "played":
            return one.rows
    return []
