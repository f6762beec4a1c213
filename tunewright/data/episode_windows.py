"""The episodes of a source as records of windows, which a task encodes one by one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from tunewright.contract.records import Record, RowProblem
from tunewright.tasks._parts import TRAJECTORY
from tunewright.tasks._trajectories import Trajectory, windows

if TYPE_CHECKING:
    from tunewright.data.read import Read


def of_episodes(read: Read, options: Mapping[str, Any]) -> Iterator[Record]:
    """The windows of each episode that a source reads; other records as they are. What is wrong with an episode goes
    to `read.problems`.
    """
    for record in read.records:
        whole = record.get(TRAJECTORY)
        if not isinstance(whole, Trajectory):
            yield record
            continue
        try:
            for window in windows(whole, record.id, options):
                about = {"where": record.where, "source": record.source, "base": record.base}
                yield Record({"window": window}, id=f"{record.id}@{window.start}", shape=TRAJECTORY, **about)
        except RowProblem as found:
            read.problems.append(found.at(record.where))
