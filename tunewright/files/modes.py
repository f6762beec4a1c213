"""Who may read what is written: what `open` and `mkdir` would allow under the process's umask, however it was made.

The library that writes safetensors, and `tempfile`, make files that their owner alone may read, whatever the umask: a
server under another account could not read an export, and two people could not share a cache.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

from tunewright.machine import host


def share(path: Path) -> None:
    """Give a file, or a folder with all in it, the modes that the umask gives new ones.

    Links are left alone, and so is what the system lets nobody change (a disk without modes, another's file).
    """
    if sys.platform == "win32":
        return
    masked = host.umask()
    for one in (path, *(path.rglob("*") if path.is_dir() else ())):
        if not one.is_symlink():
            with suppress(OSError):
                one.chmod((0o777 if one.is_dir() else 0o666) & ~masked)
