"""Work that may take minutes tells how far it is, to whoever listens.

    for site in over(sites, "lq-lora: layers taken apart"):   # "lq-lora: layers taken apart: 5 of 42, about 3 min left"
        ...

Nothing is told of work that takes less than `EVERY` seconds, nor where nobody listens (`heard_by`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from tunewright.machine.pace import Pace, in_words

Item = TypeVar("Item")
EVERY = 10.0
"""Seconds from the start to the first line, and between lines."""
_LISTENER: ContextVar[Callable[[str], None] | None] = ContextVar("tunewright_how_far", default=None)


@contextmanager
def heard_by(say: Callable[[str], None]) -> Iterator[None]:
    """Inside, `say` is given each line."""
    token = _LISTENER.set(say)
    try:
        yield
    finally:
        _LISTENER.reset(token)


def over(items: Sequence[Item], what: str, clock: Callable[[], float] = time.monotonic) -> Iterator[Item]:
    """The items one by one; `what` names the work, with the method before it."""
    say, pace, told = _LISTENER.get(), Pace(clock), clock()
    for done, item in enumerate(items, 1):
        yield item
        pace.step(done, len(items))
        if say is not None and done < len(items) and clock() - told >= EVERY:
            told = clock()
            say(f"{what}: {done} of {len(items)}, {in_words(pace.left)}")
