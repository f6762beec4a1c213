"""Limits of time and memory on somebody else's code in this process.

Time: one thread watches all calls under way and, where one is late, raises an exception inside the thread that makes
it. It arrives between two steps of Python, so code that hangs inside a single C function is not reached. Memory: the
system's limit on the process's address space, for a moment.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

_TICK = 0.2  # seconds between two looks
_AGAIN = 1.0
"""Seconds until a call that goes on is ended once more: the first end may have come inside a collected object's own end
or a callback, whose errors Python prints and forgets.
"""


class _Late(BaseException):
    """Raised in a thread whose call took too long; no `except Exception` of the called code can take it."""


class _Watch:
    """The calls under way, by thread, and the thread that looks at their deadlines."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.deadlines: dict[int, float] = {}
        self.thread: threading.Thread | None = None

    def begin(self, seconds: float) -> None:
        with self.lock:
            self.deadlines[threading.get_ident()] = time.monotonic() + seconds
            if self.thread is None or not self.thread.is_alive():  # a forked process has no copy of it
                self.thread = threading.Thread(target=self._look, name="time-limit", daemon=True)
                self.thread.start()

    def end(self) -> None:
        with self.lock:
            self.deadlines.pop(threading.get_ident(), None)

    def _look(self) -> None:
        while True:
            time.sleep(_TICK)
            with self.lock:
                now = time.monotonic()
                for thread in [t for t, deadline in self.deadlines.items() if deadline < now]:
                    self.deadlines[thread] = now + _AGAIN
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(_Late))


_watch = _Watch()
if hasattr(os, "register_at_fork"):  # another thread may have had the lock, and is not there to give it back
    os.register_at_fork(after_in_child=_watch.__init__)  # type: ignore[misc]


def within(seconds: float, call: Callable[[], T]) -> T:
    """The call's value. TimeoutError when it takes longer than `seconds` (noticed 0.2 s later at most)."""
    try:
        try:
            _watch.begin(seconds)
            return call()
        finally:
            _watch.end()
    except _Late:
        _watch.end()  # it may have arrived inside the first one
        raise TimeoutError(f"it took longer than {seconds:g} s") from None


_one_limit = threading.RLock()
"""Held while a limit of memory is: of two that overlap, the second would bring the first one's back, to stay."""


@contextmanager
def memory_within(room: int) -> Iterator[None]:
    """Let the process grow by at most `room` bytes, where the system can say so; more is a MemoryError.

    The limit holds for all threads: for short calls, with room to spare. Another thread that asks for one waits.
    """
    with _one_limit:
        yield from _memory_within(room)


def _memory_within(room: int) -> Iterator[None]:
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        before = resource.getrlimit(resource.RLIMIT_AS)
        most = pages * resource.getpagesize() + room
        if before[0] == resource.RLIM_INFINITY or before[0] > most:
            resource.setrlimit(resource.RLIMIT_AS, (most, before[1]))
    except (ImportError, OSError, ValueError):  # not Linux
        yield
        return
    try:
        yield
    finally:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_AS, before)
