"""Which parts of a run came from other packages: their distributions and versions, for the report and for a resume."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from tunewright import catalogue
from tunewright.machine import installed
from tunewright.runs.session import Session

METHODS = "tunewright.methods"


def parts_of(session: Session) -> dict[str, str]:
    """Kind and name of each part -> its distribution with the version. Row shapes are those that rows were read by."""
    named: dict[str, Callable[[Session], Iterable[str]]] = {
        installed.TASKS: lambda session: [session.task.name],
        installed.METRICS: _metrics,
        installed.SHAPES: _shapes,
        METHODS: lambda session: [catalogue.canonical(use.name) for _, _, use in session.recipe.uses()],
    }
    found: dict[str, str] = {}
    for group, names_of in named.items():
        points = installed.points(group)
        names = set(names_of(session)) if points else set()
        found |= {f"{p.kind} {name}": p.comes_from for name, p in points.items() if name in names}
    return found


def _metrics(session: Session) -> Iterator[str]:
    metric = session.recipe.measurement.metric
    rows = session.eval.rows if session.eval is not None else ()
    if metric != "auto":
        yield metric
    elif len(rows):
        yield session.task.default_metric(rows)


def _shapes(session: Session) -> set[str]:
    datasets = [part.rows for part in session.stages] + ([session.eval] if session.eval is not None else [])
    return {shape for d in datasets for one in d.sources if one.facts is not None for shape in one.facts.shapes}
