"""What metrics.jsonl gets, sent to tools that draw it. A tracker never fails a run, and never makes it wait.

Each tracker works in a thread of its own, from its import on: the run puts a record into its queue and goes on. What
fails, what does not fit the queue and what is not sent when the run ends becomes one caution; metrics.jsonl has it all.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tunewright.runs.trackers import TRACKERS, Tracked, lacking

_LOG = logging.getLogger(__name__)
WAITING = 1000
"""Records that wait for a tracker; of more, the newest are left out."""
LIMIT = 10.0
"""Seconds that the end of a stage waits for its trackers, all of them together."""

_END = None
_HAS = "the run goes on, metrics.jsonl has every record"


def numbers(record: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The finite numbers of a record; those of a mapping inside are named "outer/inner"."""
    by_name: dict[str, float] = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            by_name.update(numbers(value, f"{prefix}{name}/"))
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            by_name[prefix + name] = float(value)
    return by_name


class Trackers:
    """The trackers of one stage. `cautions`: what came of those that stopped, one each.

    `names`: `train.report_to`. `first_step`: the step of the stage that a resumed run goes on from. `before`: optimizer
    steps of earlier stages, since trackers count over the whole run.
    """

    def __init__(self, names: Sequence[str], folder: Path, first_step: int = 0, before: int = 0):
        self.cautions: list[str] = []
        self._before = before
        missing = lacking(names)  # said before the run began
        run = Tracked(folder, before + first_step)
        self._working = [_Working(name, run) for name in dict.fromkeys(names) if name not in missing]

    def log(self, record: Mapping[str, Any]) -> None:
        """Send one record of metrics.jsonl; its "step" is the x axis, and records without one are left out."""
        step = record.get("step")
        if not self._working or not isinstance(step, int):
            return
        values = numbers({k: v for k, v in record.items() if k != "step"})
        for one in self._working:
            one.put(values, self._before + step)

    def close(self) -> None:
        """Let every tracker write what it holds, within `LIMIT`."""
        ends = time.monotonic() + LIMIT
        for one in self._working:
            one.end()
        for one in self._working:
            caution = one.wait(max(0.0, ends - time.monotonic()))
            if caution:
                self.cautions.append(caution)
                one.tell(caution)
        self._working = []


class _Working:
    """One tracker at work."""

    def __init__(self, name: str, run: Tracked):
        self.name, self.run = name, run
        self._queue: queue.Queue[tuple[Mapping[str, float], int] | None] = queue.Queue(WAITING)
        self._error = ""
        self._told = False
        self._left_out = 0
        self._thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)
        self._thread.start()

    def put(self, values: Mapping[str, float], step: int) -> None:
        try:
            self._queue.put_nowait((values, step))
        except queue.Full:
            self._left_out += 1

    def end(self) -> None:
        while True:
            try:
                return self._queue.put_nowait(_END)
            except queue.Full:  # whoever does not get on is not asked for the last one either
                with suppress(queue.Empty):  # it got on meanwhile
                    self._queue.get_nowait()
                    self._left_out += 1

    def wait(self, seconds: float) -> str:
        """Wait for the tracker's end; what is to be said of it."""
        self._thread.join(seconds)
        if self._error:
            return self._error
        if self._thread.is_alive():
            return f"the tracker '{self.name}' was not at its end after {LIMIT:.0f} s and is left to itself; {_HAS}"
        if self._left_out:
            return f"the tracker '{self.name}' was too slow for {self._left_out} records; {_HAS}"
        return ""

    def tell(self, caution: str) -> None:
        """Log it, once."""
        if not self._told:
            self._told = True
            _LOG.warning(caution)

    def _work(self) -> None:
        try:
            tracker = TRACKERS[self.name](self.run)
            while (item := self._queue.get()) is not _END:
                tracker.log(*item)
            tracker.close()
        except Exception as error:  # whatever a tracker raises, the run is worth more
            said = " ".join(str(error).split())[:300]
            self._error = f"the tracker '{self.name}' stopped ({type(error).__name__}: {said}); {_HAS}"
            self.tell(self._error)
            while self._queue.get() is not _END:  # what is put meanwhile is of no use to it
                pass
