"""Whether a file is still the one that was read, without reading it whole.

Size and time of change alone do not tell: `cp -p`, `rsync -t`, a tool that restores times, or two writes within one
tick of the disk's clock leave both as they were. A small file is told by its content; a large one also by what no tool
sets (the inode, and when that was last changed) and by blocks of its content, spread over it.
"""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

SMALL = 2**20  # bytes: read whole
SETTLED = 10**9  # nanoseconds: a file that changed since may change again within one tick of the disk's clock
BLOCK, BLOCKS = 4096, 16
SAMPLE, SAMPLES = 2**16, 64


def stamp(file: Path) -> list[Any]:
    """JSON values that differ when the file's content does: for certain up to 1 MiB, else short of a forgery.

    One of a file in its first second differs from the later one of the same content: that costs reading it once more.

    OSError where it cannot be read.
    """
    about = file.stat()
    size = about.st_size
    with file.open("rb") as f:
        if size <= SMALL or time.time_ns() - about.st_ctime_ns < SETTLED:
            return [size, hashlib.file_digest(f, "sha256").hexdigest()]
        sampled = hashlib.sha256()
        for i in range(BLOCKS):
            f.seek((size - BLOCK) * i // (BLOCKS - 1))
            sampled.update(f.read(BLOCK))
    return [size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino, sampled.hexdigest()]


def sample(file: Path) -> list[Any]:
    """Size and a hash of blocks spread over the file: the same for a copy elsewhere, and told without reading a large
    file whole. A change that hits none of the blocks and keeps the size is not seen.

    OSError where it cannot be read.
    """
    size, most = file.stat().st_size, SAMPLE * SAMPLES
    found = hashlib.sha256()
    with file.open("rb") as f:
        for i in range(SAMPLES if size > most else 1):
            f.seek((size - SAMPLE) * i // (SAMPLES - 1) if size > most else 0)
            found.update(f.read(SAMPLE if size > most else most))
    return [size, found.hexdigest()]
