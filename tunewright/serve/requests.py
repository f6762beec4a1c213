"""A request to the engine, and the handle by which whoever sent it reads what is written."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from tunewright.serve.adapters import Variant
from tunewright.serve.before import Before
from tunewright.serve.errors import ApiError
from tunewright.serve.guides import Guide
from tunewright.serve.sampling import Said, Sampling

Reason = Literal["stop", "length"]


@dataclass(frozen=True)
class Request:
    """Token ids to go on from, `n` times. `variant`: None is the base. `special`: the text shows special tokens.
    `seconds`: how long it may take. `guide` makes what holds one answer to a form. `field`: what the client calls the
    prompt.
    """

    prompt: Sequence[int]
    sampling: Sampling
    variant: Variant | None = None
    n: int = 1
    special: bool = False
    seconds: float = 600.0
    guide: Callable[[], Guide] | None = None
    field: str = "messages"

    @property
    def before(self) -> Before | None:
        """What its adapter puts before the prompt."""
        return None if self.variant is None else self.variant.adapter.before

    @property
    def ahead(self) -> int:
        """Places of a row that stand before the prompt."""
        return 0 if self.variant is None else self.variant.ahead

    @property
    def longest(self) -> int:
        """Most places that one of its rows takes."""
        return self.ahead + len(self.prompt) + self.sampling.max_tokens


@dataclass(frozen=True)
class Piece:
    """What became of answer `index`: text that is new, the tokens that it was made of, and why it ended (once)."""

    index: int
    text: str
    said: tuple[Said, ...] = ()
    reason: Reason | None = None


@dataclass
class Result:
    """A whole answer."""

    text: str = ""
    said: list[Said] = field(default_factory=list)
    reason: Reason | None = None


class Handle:
    """What is written for a request, piece by piece: iterate over it (or `async for`), or take `result()` whole.

    Iterating raises ApiError where the request failed. `cancel` lets its rows go.
    """

    def __init__(self, request: Request):
        self.request, self.since = request, time.monotonic()
        self.cached = 0
        """Tokens of the prompt whose keys and values were there already."""
        self.cancelled = threading.Event()
        self._pieces: queue.SimpleQueue[Piece | ApiError | None] = queue.SimpleQueue()
        self._open = request.n
        self._over = False
        self._wake: Callable[[], None] = lambda: None

    # -- the engine's side ------------------------------------------------------------------------------------------

    def push(self, piece: Piece) -> None:
        """A piece more; the last one of the last answer ends the request."""
        if self._over:
            return
        self._pieces.put(piece)
        if piece.reason is not None:
            self._open -= 1
            if not self._open:
                self._over = True
                self._pieces.put(None)
        self._wake()

    def fail(self, error: ApiError) -> None:
        """End the request with an error; nothing where it has ended."""
        if not self._over:
            self._over = True
            self._pieces.put(error)
            self._wake()

    @property
    def over(self) -> bool:
        return self._over

    # -- the asking side --------------------------------------------------------------------------------------------

    def cancel(self) -> None:
        """Nobody waits any more: the engine lets the rows go before its next step."""
        self.cancelled.set()

    def __iter__(self) -> Iterator[Piece]:
        while True:
            piece = self._pieces.get()
            if piece is None:
                return
            if isinstance(piece, ApiError):
                raise piece
            yield piece

    async def __aiter__(self) -> AsyncIterator[Piece]:
        loop, ready = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            try:
                loop.call_soon_threadsafe(ready.set)
            except RuntimeError:  # the loop was closed: nobody reads any more
                self.cancel()

        self._wake = wake
        while True:
            ready.clear()
            try:
                piece = self._pieces.get_nowait()
            except queue.Empty:
                await ready.wait()
                continue
            if piece is None:
                return
            if isinstance(piece, ApiError):
                raise piece
            yield piece

    def result(self) -> list[Result]:
        """All answers whole; waits for them."""
        return gathered(self.request.n, list(self))


def gathered(n: int, pieces: Sequence[Piece]) -> list[Result]:
    """Whole answers of pieces."""
    out = [Result() for _ in range(n)]
    for piece in pieces:
        one = out[piece.index]
        one.text += piece.text
        one.said += piece.said
        one.reason = piece.reason or one.reason
    return out
