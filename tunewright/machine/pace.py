"""How long what is going on will still take, from how long its steps took until now."""

from __future__ import annotations

import time
from collections.abc import Callable


class Pace:
    """Steps of about equal length, however long each is. `left` is in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._begun = clock()
        self._first: tuple[int, float] | None = None
        self._ends: float | None = None

    def step(self, done: int, total: int) -> None:
        """Note that `done` of `total` steps are done now. The first one noted may be any: a resumed run's, say."""
        now = self._clock()
        if self._first is None:
            self._first, each = (done, now), now - self._begun
        else:
            each = (now - self._first[1]) / max(1, done - self._first[0])
        self._ends = now + each * max(0, total - done)

    @property
    def left(self) -> float | None:
        """Seconds until the last step is done; None before the first one is."""
        return None if self._ends is None else max(0.0, self._ends - self._clock())


def in_words(seconds: float | None) -> str:
    """A time to wait, roughly: "about 40 s left", "about 12 min left"; empty where it is not known."""
    if seconds is None:
        return ""
    about = (
        f"{seconds:.0f} s"
        if seconds < 100
        else f"{seconds / 60:.0f} min"
        if seconds < 6000
        else f"{seconds / 3600:.1f} h"
    )
    return f"about {about} left"
