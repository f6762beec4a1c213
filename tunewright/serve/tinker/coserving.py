"""Training in what serving leaves: pieces of steps run between the engine's steps, and never beside one (papers:
flexllm).

The bound: a step of the engine and what follows it take `limits.step_seconds` together, as far as pieces take what they
took before. Where nothing fits for `PATIENCE` seconds, one piece of the least size runs all the same, so that training
never stands still.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import torch

from tunewright.serve.engine import Engine
from tunewright.serve.tinker.pieces import Pieces

PAPERS = ("flexllm",)
PATIENCE = 1.0


class CoServing:
    """Runs pieces between the steps of `engine`, one work after another; `whole`: each work at once, to compare."""

    def __init__(self, engine: Engine, *, whole: bool = False):
        self.engine, self.whole = engine, whole
        self._work: Iterator[Pieces] | None = None
        self._now: Pieces | None = None
        self._done = threading.Event()
        self._error: BaseException | None = None
        self._last = 0.0
        self._one = threading.Lock()
        engine.between = self.between

    def run(self, work: Iterator[Pieces]) -> None:
        """Do all of a work's pieces; waits until they are done. What fails in one is raised here."""
        with self._one:
            self._done.clear()
            self._error = None
            self._now, self._work = None, work
            self.engine.wake()
            while not self._done.wait(0.5):
                if not self.engine.running:
                    raise RuntimeError("the engine has stopped")
            if self._error is not None:
                raise self._error

    def between(self, seconds: float) -> bool:
        """What the engine calls; whether anything was done."""
        if self._work is None:
            return False
        end, did = time.monotonic() + seconds, False
        share = self.engine.limits.step_seconds
        try:
            with torch.enable_grad():
                while self._next():
                    assert self._now is not None
                    left = end - time.monotonic()
                    if not self.whole and not self._now.fits(left, share):
                        idle = not self.engine.load["rows"] and not did
                        if not idle and time.monotonic() - self._last < PATIENCE:
                            return did
                    self._now.piece(left if not self.whole else 1e9, share if not self.whole else 1e9)
                    did, self._last = True, time.monotonic()
                    if not self.whole and self._last >= end:
                        return did
        except BaseException as error:
            self._error, self._work, self._now = error, None, None
            self._done.set()
        return did

    def _next(self) -> bool:
        """Whether there is a piece to do; the work is over where there is none."""
        while self._now is None or self._now.done:
            assert self._work is not None
            self._now = next(self._work, None)
            if self._now is None:
                self._work = None
                self._done.set()
                return False
        return True
