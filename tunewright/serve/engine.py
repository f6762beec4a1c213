"""The engine: one thread that writes all rows together, a token a step, while requests come and go.

Each turn of the loop seats what waits (in the order in which it came), reads a chunk of the prompts that are not read
yet and writes one token of every other row, in one forward. Between steps `between` may use what time is left.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

import torch

from tunewright.models.adapted import Adapted
from tunewright.serve import attention
from tunewright.serve.cache import Cache
from tunewright.serve.errors import ApiError
from tunewright.serve.forward import Forward
from tunewright.serve.limits import Limits
from tunewright.serve.paging import Active
from tunewright.serve.prefixes import Prefixes
from tunewright.serve.requests import Handle, Piece, Request
from tunewright.serve.rows import Row
from tunewright.serve.sampling import Sampling

log = logging.getLogger(__name__)


class Engine:
    """Serves requests to `adapted`, whose model is in eval mode and whose deltas are this engine's while it runs.

    `between(seconds)` is called after each step, with the time that is left of a step's share (`limits.step_seconds`;
    all of it while nothing is written, 0 after a step that took it all); it says whether it did anything, so that an
    idle engine can sleep.
    """

    def __init__(self, adapted: Adapted, limits: Limits | None = None):
        attention.prepare(adapted.model)
        self.model, self.limits = adapted, limits or Limits()
        self.cache, self.prefixes = Cache(self.limits.cache_tokens), Prefixes(self.limits.prefix_bytes)
        self.active = Active(adapted, self.limits.max_batch, self.limits.active_bytes)
        self.between: Callable[[float], bool] | None = None
        self.steps = self.tokens = 0
        self._forward = Forward(adapted, self.active.lanes)
        self._rows: list[Row] = []
        self._waiting: deque[Handle] = deque()
        self._handles: set[Handle] = set()
        self._changed = threading.Condition()
        self._stopping = False
        self._broken: str | None = None
        self._thread = threading.Thread(target=self._run, name="tunewright-engine", daemon=True)

    # -- from any thread --------------------------------------------------------------------------------------------

    def start(self) -> Engine:
        """Begin to serve."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """End: what is not written yet gets an error."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join()
        self._fail_all(ApiError(503, "The server is shutting down."))

    def submit(self, request: Request) -> Handle:
        """Take a request. ApiError where it can never be served (400), the queue is full (429), or nothing is (503)."""
        self._check(request)
        handle = Handle(request)
        with self._changed:
            if self._broken or self._stopping:
                raise ApiError(503, self._broken or "The server is shutting down.")
            if len(self._waiting) >= self.limits.queue:
                raise ApiError(
                    429, f"{self.limits.queue} requests wait already. Try again in a while.", code="queue_full"
                )
            self._waiting.append(handle)
            self._handles.add(handle)
            self._changed.notify_all()
        return handle

    def probe(self, tokens: Sequence[int]) -> torch.Tensor:
        """Logits [V] after some tokens, by steps as they are served: two that read, one that writes. Before `start`."""
        handle = Handle(Request(tokens[:-1], Sampling(1)))
        row = Row(handle, 0, self.cache.seat(len(tokens)), self.model.tokenizer)
        with torch.no_grad():
            for n in (len(tokens) // 2, len(tokens) - 1 - len(tokens) // 2):
                self._forward([], [(row, n)])
                row.seat.used += n
            row.tokens.append(tokens[-1])
            logits = self._forward([row], [])[0]
        self.cache.leave(row.seat)
        return logits

    def wake(self) -> None:
        """Look again whether `between` has anything to do."""
        with self._changed:
            self._changed.notify_all()

    @property
    def running(self) -> bool:
        """Whether there is still somebody who steps."""
        return self._thread.is_alive() and self._broken is None

    @property
    def load(self) -> dict[str, int]:
        """How many rows are written, requests wait, and tokens of the cache are taken."""
        return {"rows": len(self._rows), "waiting": len(self._waiting), "cache_tokens": self.cache.taken}

    def _check(self, request: Request) -> None:
        longest = request.longest
        if not request.prompt:
            raise ApiError(400, "The prompt has no tokens.", param="prompt")
        if longest > self.limits.max_length:
            what = f"{len(request.prompt)} tokens of the prompt and {request.sampling.max_tokens} of the answer"
            what = f"{request.ahead} virtual tokens of the adapter, {what}" if request.ahead else what
            raise ApiError(
                400,
                f"This model's maximum context length is {self.limits.max_length} tokens, and {what} are asked for.",
                param=request.field,
                code="context_length_exceeded",
            )
        if request.n > self.limits.max_batch:
            raise ApiError(400, f"n is at most {self.limits.max_batch} here.", param="n")
        if self.cache.capacity(longest) * request.n > self.limits.cache_tokens:
            raise ApiError(400, "There is no room for so many tokens in this server's cache.", param="n")

    # -- the loop ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            with torch.no_grad():
                while self._turn():
                    pass
        except BaseException as error:
            log.exception("the engine stopped")
            self._broken = f"The engine stopped ({type(error).__name__}). Start the server again."
            self._fail_all(ApiError(503, self._broken))

    def _turn(self) -> bool:
        """One turn of the loop; whether there is another."""
        with self._changed:
            if self._stopping:
                return False
            if not self._rows and not self._waiting and self.between is None:
                self._changed.wait()
                return True
        self._drop()
        self._seat()
        began = time.monotonic()
        if self._rows:
            self._step()
        left = self.limits.step_seconds - (time.monotonic() - began if self._rows else 0.0)
        did = self._let(max(0.0, left))
        if not self._rows and not did:
            with self._changed:
                if not self._waiting and not self._stopping:
                    self._changed.wait(timeout=0.05 if self.between is not None else None)
        return True

    def _let(self, seconds: float) -> bool:
        if self.between is None:
            return False
        with torch.enable_grad():
            return self.between(seconds)

    def _drop(self) -> None:
        """Let rows go that nobody waits for, and those whose time is over."""
        now = time.monotonic()
        for handle in list(self._handles):
            if now - handle.since > handle.request.seconds:
                handle.fail(ApiError(503, f"This took longer than {handle.request.seconds:g} s.", code="timeout"))
            if handle.cancelled.is_set() or handle.over:
                handle.fail(ApiError(503, "Nobody waits for this request."))
                self._forget(handle)

    def _forget(self, handle: Handle) -> None:
        for row in [r for r in self._rows if r.handle is handle]:
            self._leave(row)
        with self._changed:
            self._handles.discard(handle)
            if handle in self._waiting:
                self._waiting.remove(handle)

    def _leave(self, row: Row) -> None:
        self._rows.remove(row)
        self.prefixes.keep(row.variant, row.tokens[: row.seat.used], row.seat)
        self.cache.leave(row.seat)
        self.active.release(row.variant)

    def _seat(self) -> None:
        """Seats for what waits, first come first served."""
        while self._waiting:
            handle = self._waiting[0]
            request = handle.request
            longest = request.longest
            room = len(self._rows) + request.n <= self.limits.max_batch and self.cache.fits(longest, request.n)
            if not room or not self.active.fits(request.variant):
                return
            with self._changed:
                self._waiting.popleft()
            taken, rows = 0, list[Row]()
            try:
                for i in range(request.n):
                    self.active.take(request.variant)
                    taken += 1
                    rows.append(Row(handle, i, self.cache.seat(longest), self.model.tokenizer))
            except Exception as error:
                for row in reversed(rows):
                    self.cache.leave(row.seat)
                for _ in range(taken):
                    self.active.release(request.variant)
                self._lost(handle, error)
                continue
            known = self.prefixes.fill(request.variant, rows[0].tokens, rows[0].seat)
            handle.cached = max(0, known - request.ahead)
            if request.before is not None:
                request.before.begin(rows[0].seat)
            rows[0].siblings = rows[1:]
            self._rows += rows

    def _step(self) -> None:
        """One forward: a token for each row that is written, a chunk of the prompts that are read."""
        ready = sorted((r for r in self._rows if r.writing), key=lambda r: self.active.order(r.variant))
        reading, room = list[tuple[Row, int]](), self.limits.chunk
        for row in self._rows:
            if room and not row.writing and not row.waits:
                n = min(room, len(row.tokens) - row.seat.used)
                reading.append((row, n))
                room -= n
        try:
            logits = self._forward(ready, reading)
        except Exception as error:
            self._one_by_one(ready, reading, error)
            return
        self.steps += 1
        self._read_on(ready, reading, logits)

    def _one_by_one(self, ready: list[Row], reading: list[tuple[Row, int]], error: Exception) -> None:
        """After a step that failed: each row alone, so that what one request cannot do costs the others nothing."""
        log.warning("a step failed (%s); its rows are tried one by one", error)
        for row, n in [(r, 0) for r in ready] + reading:
            if row.handle.over:
                continue
            some: tuple[list[Row], list[tuple[Row, int]]] = ([], [(row, n)]) if n else ([row], [])
            try:
                logits = self._forward(*some)
            except Exception as own:
                self._lost(row.handle, own)
                continue
            self._read_on(*some, logits)

    def _lost(self, handle: Handle, error: Exception) -> None:
        """A request that cannot be served: its client is told, its rows leave."""
        log.error("a request failed", exc_info=error)
        handle.fail(ApiError(500, f"The model failed on this request ({type(error).__name__})."))
        self._forget(handle)

    def _read_on(self, ready: list[Row], reading: list[tuple[Row, int]], logits: torch.Tensor) -> None:
        """What a step's logits [rows, V] say: tokens for the rows that were written, and for prompts read whole."""
        for row in ready:
            row.seat.used += 1
        for row, n in reading:
            row.seat.used += n
            if row.before is not None:
                row.before.keep(row.seat)
        for row, own in zip([*ready, *(r for r, _ in reading)], logits, strict=True):
            if row.seat.used < len(row.tokens):
                continue
            if not row.writing:
                self.prefixes.keep(row.variant, row.tokens, row.seat)
            together, row.siblings = [row, *row.siblings], []
            for one in together[1:]:
                self.cache.copy(row.seat, one.seat)
            for one in together:
                if one in self._rows:  # another answer of its request may have failed
                    self._write(one, own)

    def _write(self, row: Row, logits: torch.Tensor) -> None:
        try:
            piece = row.write(logits)
        except Exception as error:
            self._lost(row.handle, error)
            return
        self.tokens += len(piece.said)
        if piece.reason is not None:
            self._leave(row)
        row.handle.push(piece)
        if row.handle.over:
            with self._changed:
                self._handles.discard(row.handle)

    def _fail_all(self, error: ApiError) -> None:
        with self._changed:
            handles, self._handles = list(self._handles), set()
            self._waiting.clear()
        for handle in handles:
            handle.fail(error)


__all__ = ["Engine", "Handle", "Piece", "Request"]
