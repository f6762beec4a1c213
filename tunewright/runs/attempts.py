"""How many runs of a work folder were measured on the same evaluation rows.

The best of many attempts looks better than it is, since it was chosen by these rows. A folder of runs that holds
`attempts.json` counts them, by the rows' content; each run's report says which attempt it is.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from tunewright.errors import FolderError
from tunewright.files.checkpoint import write_json
from tunewright.machine import host

FILE = "attempts.json"
WAIT = 30.0
"""Seconds to wait for another run that is counting."""


def start(folder: Path) -> None:
    """Have a folder of runs counted from now on."""
    if not (folder / FILE).exists():
        write_json(folder / FILE, {})


def counted(folder: Path) -> dict[str, list[str]]:
    """Hash of evaluation rows -> the runs' names, in order. FolderError for a file that is none of ours."""
    try:
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return {str(k): [str(n) for n in v] for k, v in found.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise FolderError(
            f"the count of attempts cannot be read: {error}", where=str(folder / FILE), remedy="put the file back"
        ) from error


def count(run: Path, rows: str | None) -> int | None:
    """Count a run that is about to be measured on `rows` (their hash); which attempt it is, counted from 1.

    None where its folder counts none, or it has no evaluation rows. A run that is counted already keeps its number.
    """
    place = run.resolve().parent
    if rows is None or not (place / FILE).exists():
        return None
    lock = _lock(place)
    try:
        known = counted(place)
        names = known.setdefault(rows, [])
        if run.resolve().name not in names:
            names.append(run.resolve().name)
            write_json(place / FILE, known)
        return names.index(run.resolve().name) + 1
    finally:
        lock.release()


def _lock(place: Path) -> host.Lock:
    until = time.monotonic() + WAIT
    while True:
        try:
            return host.Lock(place / f".{FILE}.lock")
        except host.Held:
            if time.monotonic() > until:
                raise FolderError("another run is counting", where=str(place / FILE), remedy="try again") from None
            time.sleep(0.05)
