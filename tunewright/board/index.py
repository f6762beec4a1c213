"""The runs below a folder, kept in memory: a run is read again when one of its files is another than before.

Thousands of reports take seconds to read. `begin` reads them in a thread, the newest first, and pages show what is read
by then and how much is not.
"""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tunewright.errors import TunewrightError
from tunewright.finished.folders import Held, found, held
from tunewright.machine import host
from tunewright.report.compare_schema import Comparison
from tunewright.runs.folder import BEGUN, LOCK, METRICS, PROGRESS, PRUNED, RECIPE

FILES = ("report.json", RECIPE, METRICS, PROGRESS, BEGUN, PRUNED, LOCK)
"""What the reading of a run opens."""
LARGEST = 64 << 20
"""Bytes of a file above which it is not read: a report has some tens of kB."""
FRESH = 2.0
"""Seconds in which folders are not looked through again, at least."""
SHARE = 20.0
"""How many times as long as a look took they are left alone: thousands of folders on a slow disk are not looked through
all the time, and a run that trains there is not slowed.
"""

Stamp = tuple[tuple[int, int, int] | None, ...]


def opened(root: Path, folder: Path, name: str) -> Path | None:
    """A run's own file, where it is a file below the root that may be read; None for links that lead out of it, pipes,
    devices and files too large.
    """
    path = folder / name
    try:
        status = path.stat()
        inside = path.resolve().is_relative_to(root)
    except (OSError, RuntimeError):  # a link in a circle
        return None
    return path if inside and stat.S_ISREG(status.st_mode) and status.st_size <= LARGEST else None


def _stamp(folder: Path) -> Stamp:
    """When the files of a run were written, and how large they are."""
    out: list[tuple[int, int, int] | None] = []
    for name in ("", *FILES):
        try:
            status = os.stat(folder / name)
        except OSError:
            out.append(None)
        else:
            out.append((status.st_mtime_ns, status.st_size, status.st_ino))
    return tuple(out)


class Index:
    """Runs and comparisons below `root`. Safe to ask from several threads; nothing is written.

    `given`: the root as it was named. A run is named by its path below the root, with `/`; the root itself, where it is
    a run, by its own name.
    """

    def __init__(self, root: Path):
        self.root, self.given = root.resolve(), str(root)
        self._known: dict[str, tuple[Stamp, Held]] = {}
        self._folders: dict[str, Path] = {}
        self._compared: dict[str, Path] = {}
        self._next = float("-inf")
        self._lock = threading.Lock()
        self._one_reader = threading.Lock()

    def begin(self) -> threading.Thread:
        """Read all runs in a thread of its own."""
        thread = threading.Thread(target=self.refresh, daemon=True)
        thread.start()
        return thread

    def refresh(self) -> None:
        """Look through the folders, and read what is new or changed; at once where they were looked through lately, or
        another thread does it.
        """
        if not self._one_reader.acquire(blocking=False):
            return
        try:
            began = time.monotonic()
            if began >= self._next:
                self._look()
                self._next = time.monotonic() + max(FRESH, SHARE * (time.monotonic() - began))
        finally:
            self._one_reader.release()

    def _look(self) -> None:
        folders = {self._name(folder): folder for folder in found([self.root])}
        stamps = {name: _stamp(folder) for name, folder in folders.items()}
        compared = {self._name(file.parent): file for file in self._comparisons(set(folders.values()))}
        with self._lock:
            self._folders, self._compared = folders, compared
            self._known = {name: known for name, known in self._known.items() if name in folders}
            known = dict(self._known)
        for name in sorted(folders, key=lambda n: stamps[n][0] or (0, 0, 0), reverse=True):
            run = self._read(name, folders[name], known[name][1] if known.get(name, ((),))[0] == stamps[name] else None)
            with self._lock:
                self._known[name] = (stamps[name], run)

    def _read(self, name: str, folder: Path, known: Held | None) -> Held:
        """What a folder holds. Where no file changed, only whether a process has it can be another than `known`."""
        if known is not None:
            if known.state in ("running", "interrupted") and not (folder / "report.json").exists():
                return replace(known, state="running" if host.is_locked(folder / LOCK) else "interrupted")
            return known
        for file in FILES:
            if os.path.lexists(folder / file) and opened(self.root, folder, file) is None:
                return Held(Path(name), "unreadable", 0, problem=f"{file} is no file of this folder, or too large")
        try:
            return replace(held(folder), folder=Path(name))
        except Exception as error:  # whatever stands in a folder of someone's, the other runs are shown
            return Held(Path(name), "unreadable", 0, problem=f"it cannot be read ({type(error).__name__}: {error})")

    def _name(self, folder: Path) -> str:
        return folder.relative_to(self.root).as_posix() if folder != self.root else self.root.name or "run"

    def _comparisons(self, runs: set[Path], depth: int = 3) -> Iterator[Path]:
        """compare.json of folders that are no runs."""
        places = [self.root]
        for _ in range(depth):
            inner: list[Path] = []
            for place in places:
                if (file := opened(self.root, place, Comparison.file)) is not None:
                    yield file
                    continue
                if place in runs:
                    continue
                try:
                    with os.scandir(place) as entries:
                        inner += [Path(e.path) for e in entries if e.is_dir(follow_symlinks=False)]
                except OSError:
                    continue
            places = inner

    def runs(self) -> dict[str, Held]:
        """What is read by now, by name; `folder` is the name."""
        with self._lock:
            return {name: run for name, (_, run) in self._known.items()}

    def reading(self) -> tuple[int, int]:
        """How many runs are read, and how many there are."""
        with self._lock:
            return len(self._known), len(self._folders)

    def folder(self, name: str) -> Path | None:
        """Where a run is; None for a name that no run has."""
        with self._lock:
            return self._folders.get(name)

    def comparisons(self) -> dict[str, Path]:
        """compare.json of each comparison, by the name of its folder."""
        with self._lock:
            return dict(self._compared)


def compared(file: Path) -> Comparison | str:
    """A comparison's figures, or why they cannot be read."""
    try:
        return Comparison.load(file)
    except TunewrightError as error:
        return str(error)
