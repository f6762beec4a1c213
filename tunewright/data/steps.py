"""Episodes from a row a step: `episode`, `observation`, `action`, `reward` (the shape `steps`), as logs have them.

Steps of an episode stand in the order of time, wherever the others' stand. An episode with a step that cannot be used
is one problem, with that step's place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tunewright.contract.records import Problem, Record, RowProblem
from tunewright.data.raw import Bad
from tunewright.data.shapes import canonical
from tunewright.data.where import meant, wanted
from tunewright.errors import DataError
from tunewright.tasks._parts import STEPS, TRAJECTORY

if TYPE_CHECKING:
    from tunewright.data.places import Place, SourceLike

_OF = {"observation": "observations", "action": "actions", "reward": "rewards"}


@dataclass
class _Steps:
    """The steps of one episode as they come."""

    first: str
    where: str
    folder: str
    lists: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in _OF.values()})
    fault: Problem | None = None


def episodes_in(
    rows: Iterator[Any], place: Place, source: SourceLike, problems: list[Problem] | None
) -> Iterator[Record]:
    """The episodes of a source's steps, in the order in which each begins. What is wrong is appended to `problems`;
    without it the first is raised as a DataError.
    """
    for key in ("share", "permute"):
        if getattr(source, key, None) is not None:
            what = f"'{key}' draws rows, and an episode needs all steps of its own"
            raise DataError(what, where=place.name, remedy=f"remove {key}")
    if getattr(source, "streaming", False):
        raise DataError("episodes are gathered from the whole file", where=place.name, remedy="remove streaming")
    gathered, asked = dict[str, _Steps](), wanted(source)
    for name, where, row, folder in rows:
        try:
            if isinstance(row, Bad):
                raise RowProblem(row.field, row.reason, row.remedy)
            if asked and not meant(row, asked, source.columns):
                continue
            values, _ = canonical(row, source.columns, STEPS)
        except RowProblem as found:
            _tell(found.at(where), problems)
            continue
        steps = gathered.setdefault(str(values["episode"]), _Steps(name, where, folder))
        try:
            _check(values, row)
        except RowProblem as found:
            steps.fault = steps.fault or found.at(where)
            continue
        for one, many in _OF.items():
            steps.lists[many].append(values[one])
    from tunewright.data.trajectories import trajectory_of

    for called, steps in gathered.items():
        if steps.fault is not None:
            _tell(steps.fault, problems)
            continue
        try:
            made = trajectory_of(steps.lists)
        except RowProblem as found:
            found.reason = f"of episode '{called}': {found.reason}"
            _tell(found.at(steps.where), problems)
            continue
        about = {"id": steps.first, "where": steps.where, "source": place.name, "base": steps.folder}
        yield Record({TRAJECTORY: made}, shape=TRAJECTORY, **about)


def _check(values: dict[str, Any], row: Mapping[str, Any]) -> None:
    """RowProblem for a step that is none by itself. `row`: all columns of the file's."""
    from tunewright.data.trajectories import ENDS, is_over, steps_of

    if values["episode"] is None:
        raise RowProblem("episode", "the step does not say whose it is", "write the number of its episode")
    for one in _OF:
        try:
            steps_of([values[one]], one)
        except RowProblem as found:
            found.reason = found.reason.replace(" at step 0", "").replace("step 0", "it")
            raise
    for name in ENDS:
        is_over(row.get(name), name)


def _tell(found: Problem, problems: list[Problem] | None) -> None:
    if problems is None:
        raise found.error()
    problems.append(found)
