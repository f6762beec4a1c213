"""One run by several processes: the first writes the run's folder; every other works in one of its own, which is
thrown away, measures nothing and says nothing.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunewright.errors import FolderError, Interrupted, MethodError, PartedError, TunewrightError
from tunewright.machine.group import Group, present

if TYPE_CHECKING:
    from tunewright.recipe import Recipe
    from tunewright.runs.result import Result

ASIDE = "TUNEWRIGHT_ASIDE"
"""Names the folder for what is thrown away, where whoever began the processes clears it up."""


@contextmanager
def joined() -> Iterator[Group]:
    """The processes of this run, met; alone, there is nothing to meet. Of an error that all of them meet the first
    speaks, and the others end with its exit code.
    """
    group = present()
    if not group.many:
        yield group
        return
    group.join()
    well = False
    try:
        yield group
        well = True
    except TunewrightError as error:
        well = isinstance(error, Interrupted)
        if well:
            group.stopped()
        group.failed()
        if not group.first and (isinstance(error, Interrupted | PartedError) or group.told_by_first()):
            sys.exit(error.code)
        raise
    finally:
        group.leave(well)


def together(
    group: Group, work: Callable[[Path | None], Result | None], out: Path | None, copy_of: Path | None = None
) -> Result:
    """`work(folder)` in every process: the first in `out`, the others each in a folder of its own, for a run that goes
    on a copy of `copy_of` as it is now. Gives what the first one's work gave, in every process.
    """
    if not group.many:
        return _there(work(out))
    if not group.first:
        with _aside(copy_of) as folder, _hearing(group):
            group.meet()
            work(folder)
            return _of_first(group.told({})[0])
    group.meet()  # the others have taken their copies
    try:
        with _hearing(group):
            result = _there(work(out))
        group.told({"folder": str(result.folder.resolve()), "report": result.report.model_dump(mode="json")})
        return result
    except PartedError as error:
        place = str(out or "the run's folder")
        if group.was_stopped():  # a signal came where one of them could still wait for the others
            what = "interrupted; what was done before is kept"
            raise Interrupted(what, where=place, remedy=f"tunewright resume {place}") from error
        raise PartedError(error.what, where=place, remedy=error.remedy) from error


@contextmanager
def _hearing(group: Group) -> Iterator[None]:
    """Within, what torch says where it brings weights together and another process is gone is what the group says."""
    try:
        yield
    except RuntimeError as error:
        if not group.parted(error):
            raise
        raise group.ended() from error


def _there(result: Result | None) -> Result:
    assert result is not None  # the first process's work ends with a report
    return result


@contextmanager
def _aside(copy_of: Path | None) -> Iterator[Path]:
    held = Path(tempfile.mkdtemp(prefix="tunewright-", dir=os.environ.get(ASIDE)))
    try:
        folder = held / "run"
        if copy_of is not None:
            try:
                shutil.copytree(copy_of, folder)
            except (OSError, shutil.Error) as e:
                raise FolderError(
                    f"a process beside the first cannot read the run that goes on: {e}",
                    where=str(copy_of),
                    remedy="put the run on a disk that every machine sees",
                ) from e
        yield folder
    finally:
        shutil.rmtree(held, ignore_errors=True)


def _of_first(told: dict[str, Any]) -> Result:
    from tunewright.report.schema import Report
    from tunewright.runs.result import Result

    return Result(Path(told["folder"]), Report.model_validate(told["report"]))


def quietly(recipe: Recipe) -> Recipe:
    """The recipe for a process that is not the first: it reports to nobody."""
    silent = recipe.model_copy(deep=True)
    silent._base, silent._out, silent._notes = recipe._base, recipe._out, []
    silent.train = silent.train.model_copy(update={"report_to": []})
    return silent


def check(methods: Sequence[Sequence[tuple[str, Any]]]) -> None:
    """MethodError for a method that works in one process alone, where there are several."""
    group = present()
    alone = next((name for named in methods for name, m in named if not m.ranks), None)
    if group.many and alone is not None:
        raise MethodError(
            f"'{alone}' keeps what it sees of a batch, and {group.size} processes see {group.size} different ones",
            where=f"'{alone}'",
            remedy="run it in one process",
        )


def refuse(what: str, where: str | None = None) -> None:
    """TunewrightError where several processes do what one does."""
    group = present()
    if group.many and not group.first:
        sys.exit(TunewrightError.code)  # the first says it
    if group.many:
        raise TunewrightError(
            f"{what} is one process's work, and {group.size} were begun",
            where=where,
            remedy="torchrun is for `tunewright run` and `tunewright resume`; begin this without it",
        )
