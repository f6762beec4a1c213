"""Reading and writing at a place of an open file, from many threads at once, whatever the system offers for it.

Where there is no `pread` and `pwrite` (Windows), the file's one position is moved under a lock. Offsets and sizes in
bytes.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

Buffer = Any
"""Whatever has the buffer protocol: bytes, memoryview, a numpy array."""

MOST = 64 * 2**20  # read or written by one call where each call holds up the others

_one_at_a_time = threading.Lock()


def open_file(path: Path, *, write: bool = False) -> int:
    """A descriptor to read from, or to read and write (made when missing). OSError as `os.open`."""
    flags = os.O_RDWR | os.O_CREAT if write else os.O_RDONLY
    return os.open(path, flags | getattr(os, "O_BINARY", 0), 0o666)


def read_into(descriptor: int, out: Buffer, start: int) -> int:
    """Fill `out` with what lies from `start` on; how many bytes came, fewer than it has where the file ends before."""
    view, done = memoryview(out).cast("B"), 0
    while done < len(view):  # one call reads 2 GiB at most
        came = _read(descriptor, view[done:], start + done)
        if not came:
            break
        done += came
    return done


def _read(descriptor: int, view: memoryview, start: int) -> int:
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, [view], start)
    with _one_at_a_time:
        os.lseek(descriptor, start, os.SEEK_SET)
        came = os.read(descriptor, min(len(view), MOST))
    view[: len(came)] = came
    return len(came)


def write_at(descriptor: int, data: Buffer, start: int) -> None:
    """Write all of `data` from `start` on."""
    view, done = memoryview(data).cast("B"), 0
    while done < len(view):
        done += _write(descriptor, view[done:], start + done)


def _write(descriptor: int, view: memoryview, start: int) -> int:
    if hasattr(os, "pwrite"):
        return os.pwrite(descriptor, view, start)
    with _one_at_a_time:
        os.lseek(descriptor, start, os.SEEK_SET)
        return os.write(descriptor, view[:MOST])


def reserve(descriptor: int, size: int) -> None:
    """Give the file its size, with room on the disk where the system can promise it. OSError when the disk is full."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.ftruncate(descriptor, size)


def will_need(descriptor: int, start: int, size: int) -> None:
    """Ask the system to fetch bytes from the disk meanwhile, where it can."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, start, size, os.POSIX_FADV_WILLNEED)


def flush(descriptor: int) -> None:
    """Send what was written to the disk, and wait for it."""
    getattr(os, "fdatasync", os.fsync)(descriptor)
