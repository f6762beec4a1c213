"""Several requests at a time, each result kept when it comes, and no thread that an interruption waits for."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import TypeVar

R = TypeVar("R")


class Stopped(Exception):
    """Raised by what is done in a thread, where `stop` says that it is no longer wanted."""


def at_once(count: int, do: Callable[[int, threading.Event], R], keep: Callable[[int, R], None], *, most: int) -> None:
    """`do(i, stop)` for each i below `count`, `most` at a time, and `keep(i, result)` in this thread as each comes.

    Where one raises, none is begun any more, those that were begun are waited for and kept, and the first error is
    raised. Where this thread is interrupted, what came is kept and nothing is waited for: the threads are daemons, and
    `stop` ends their pauses.
    """
    stop, ready = threading.Event(), threading.Semaphore(0)
    to_do, came = deque(range(count)), deque[tuple[int, R | None, Exception | None]]()
    workers = min(most, count)

    def work() -> None:
        while not stop.is_set():
            try:
                i = to_do.popleft()
            except IndexError:
                break
            try:
                came.append((i, do(i, stop), None))
            except Exception as e:
                came.append((i, None, e))
            ready.release()
        came.append((-1, None, None))
        ready.release()

    errors: list[Exception] = []

    def take() -> int:
        """Keep the first that came; gives how many threads ended by it. It is dropped only once it is kept."""
        i, result, error = came[0]
        if error is not None:
            stop.set()
            if not isinstance(error, Stopped):
                errors.append(error)
        elif i >= 0:
            keep(i, result)  # type: ignore[arg-type]
        came.popleft()
        return int(i < 0)

    try:
        for _ in range(workers):
            threading.Thread(target=work, daemon=True).start()
        while workers:
            if ready.acquire(timeout=0.5):  # with a limit: Windows hears no Ctrl-C in a wait without one
                workers -= take()
    except BaseException:
        stop.set()
        while came:
            take()
        raise
    if errors:
        raise errors[0]
