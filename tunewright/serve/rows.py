"""One answer that is being written: its tokens, its seat, and what is said of each token."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tunewright.serve.adapters import Variant
from tunewright.serve.before import VIRTUAL, Before
from tunewright.serve.cache import Seat
from tunewright.serve.guides import Guide
from tunewright.serve.requests import Handle, Piece, Reason
from tunewright.serve.sampling import Drawer
from tunewright.serve.text import Writing


class Row:
    """Answer `index` of a request. `tokens`: what stands before the `prompt` places, the prompt, and the answer;
    `seat.used` of them are in the cache. `siblings` wait for this row to read the prompt that they share.
    """

    def __init__(self, handle: Handle, index: int, seat: Seat, tokenizer: Any):
        request = handle.request
        self.handle, self.index, self.seat = handle, index, seat
        self.tokens = [VIRTUAL] * request.ahead + list(request.prompt)
        self.prompt = len(self.tokens)
        self.siblings: list[Row] = []
        self.waits = index > 0
        self._drawer = Drawer(request.sampling, index)
        self._writing = Writing(tokenizer, request.sampling.stop, special=request.special)
        self._guide: Guide | None = request.guide() if request.guide is not None else None

    @property
    def variant(self) -> Variant | None:
        return self.handle.request.variant

    @property
    def before(self) -> Before | None:
        return self.handle.request.before

    @property
    def writing(self) -> bool:
        """Whether its next token is read from its last one alone."""
        return len(self.tokens) > self.prompt

    def write(self, logits: Tensor) -> Piece:
        """Choose the next token from logits [V] (fp32)."""
        sampling, guide = self.handle.request.sampling, self._guide
        said = self._drawer.choose(logits, guide)
        self.waits = False
        self.tokens.append(said.token)
        if said.token in sampling.ends:
            return Piece(self.index, self._writing.end(), (said,), "stop")
        text, reason = self._writing.add(said.token), self._reason(sampling.max_tokens)
        if guide is not None:
            guide.advance(said.token)
            reason = "stop" if guide.done else reason
        if reason is not None:
            text += self._writing.end()
        return Piece(self.index, text, (said,), "stop" if self._writing.stopped else reason)

    def _reason(self, most: int) -> Reason | None:
        if self._writing.stopped:
            return "stop"
        return "length" if len(self.tokens) - self.prompt >= most else None
