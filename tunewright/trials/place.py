"""The folder of many runs: made, held by one process, and gone on with after Ctrl-C."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tunewright.errors import FolderError, Interrupted, TunewrightError
from tunewright.runs.folder import RunFolder, discard_if_empty, locked


@dataclass
class Place:
    """A folder in use. `done` counts the runs that are kept in it so far."""

    folder: Path
    done: Callable[[], int] = lambda: 0


@contextmanager
def place(folder: Path) -> Iterator[Place]:
    """Hold `folder` for many runs. FolderError where it cannot be made or holds a run; Interrupted, with how to go on,
    in the place of Ctrl-C. What is refused before any run leaves no new folder behind.
    """
    new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise FolderError(
            f"the output folder cannot be made: {e.strerror or e}", where=str(folder), remedy="choose another --out"
        ) from e
    if (folder / "recipe.yaml").exists() or (folder / "report.json").exists():
        raise FolderError("this folder holds a run", where=str(folder), remedy="choose another --out")
    held = Place(folder)
    with locked(RunFolder(folder)):
        try:
            yield held
        except KeyboardInterrupt:
            raise Interrupted(
                f"stopped after {held.done()} runs, which are kept",
                where=str(folder),
                remedy="the same command again goes on from there",
            ) from None
        except TunewrightError:
            if new:
                discard_if_empty(RunFolder(folder))
            raise
