"""What a person is told while something takes long that has no steps of its own: how far it is, every ten seconds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from tunewright.machine.pace import Pace, in_words

Item = TypeVar("Item")
Say = Callable[[str], None]
EVERY = 10.0
"""Seconds between two lines; what is done before the first has none."""
_SAY: ContextVar[Say | None] = ContextVar("_SAY", default=None)


@contextmanager
def telling(say: Say | None) -> Iterator[None]:
    """Inside, `say` is what tells how far a long work is; None: nobody asks."""
    before = _SAY.set(say)
    try:
        yield
    finally:
        _SAY.reset(before)


def counted(items: Iterable[Item], what: str, of: str) -> Iterator[Item]:
    """The items, and every ten seconds how many of them (`of`, in the plural) have come: "reading a.jsonl: 900 rows".

    The time between them counts: what is done with one before the next is asked for is part of the work.
    """
    say, last = _SAY.get(), time.monotonic()
    for n, item in enumerate(items):
        if say is not None and (now := time.monotonic()) - last >= EVERY:
            last = now
            say(f"{what}: {n:,} {of} so far")
        yield item


def over(items: Sequence[Item], what: str, clock: Callable[[], float] = time.monotonic) -> Iterator[Item]:
    """The items, and every ten seconds how many of all are done, and how long the others will take:
    "lq-lora: layers set up: 5 of 42, about 3 min left".
    """
    say, pace, told = _SAY.get(), Pace(clock), clock()
    for done, item in enumerate(items, 1):
        yield item
        pace.step(done, len(items))
        if say is not None and done < len(items) and clock() - told >= EVERY:
            told = clock()
            say(f"{what}: {done} of {len(items)}, {in_words(pace.left)}")


@contextmanager
def while_waiting(what: str) -> Iterator[None]:
    """Inside, every ten seconds how long it has taken: "loading ./base: 20 s so far"."""
    say = _SAY.get()
    if say is None:
        yield
        return
    over, began = threading.Event(), time.monotonic()

    def tell() -> None:
        while not over.wait(EVERY):
            say(f"{what}: {time.monotonic() - began:.0f} s so far")

    thread = threading.Thread(target=tell, name="waiting", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
