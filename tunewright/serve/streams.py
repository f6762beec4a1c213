"""Answers piece by piece: server-sent events of a request's handles."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

from tunewright.measure.calls import Form
from tunewright.serve import answers
from tunewright.serve.answers import Envelope, Json
from tunewright.serve.errors import ApiError
from tunewright.serve.requests import Handle, Piece

DONE = "data: [DONE]\n\n"


def event(data: Json) -> str:
    """One server-sent event."""
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"


async def merged(handles: Sequence[Handle]) -> AsyncIterator[tuple[int, Piece]]:
    """The pieces of several handles as they come: (number of the handle, piece). ApiError where one fails."""
    pieces: asyncio.Queue[tuple[int, Piece | ApiError | None]] = asyncio.Queue()

    async def follow(i: int, handle: Handle) -> None:
        try:
            async for piece in handle:
                await pieces.put((i, piece))
        except ApiError as error:
            await pieces.put((i, error))
        await pieces.put((i, None))

    tasks = [asyncio.create_task(follow(i, h)) for i, h in enumerate(handles)]
    try:
        left = len(handles)
        while left:
            i, piece = await pieces.get()
            if isinstance(piece, ApiError):
                raise piece
            if piece is None:
                left -= 1
            else:
                yield i, piece
    finally:
        for task in tasks:
            task.cancel()


class _Choice:
    """What one choice of a chat has sent: its role, and text that may be the start of a call is held back."""

    def __init__(self, index: int, form: Form | None, most: int | None = None):
        self.index, self.form, self.most = index, form, most
        self.begun, self.held, self.holding = False, "", False

    def delta(self, piece: Piece) -> tuple[Json, str | None]:
        """(delta, why it ended) of a piece."""
        out: Json = {} if self.begun else {"role": "assistant", "content": ""}
        self.begun, reason = True, piece.reason
        text = self._shown(piece.text, last=reason is not None)
        if reason is not None and self.held:
            calls = answers.calls_in(self.held, self.form)[: self.most]
            if calls:
                out["tool_calls"] = [{"index": i, **c} for i, c in enumerate(calls)]
                reason_out = "tool_calls"
                return {**out, **({"content": text} if text else {})}, reason_out
            text, self.held = text + self.held, ""
        if text:
            out["content"] = text
        return out, reason

    def _shown(self, text: str, *, last: bool) -> str:
        if self.form is None:
            return text
        self.held += text
        opening = self.form.opening
        if self.holding or not opening:
            # without a mark of its own a call is the whole answer, and begins like JSON
            if self.holding or not self.held.strip() or self.held.lstrip()[0] in "[{":
                return ""
            out, self.held = self.held, ""
            return out
        at = self.held.find(opening)
        if at >= 0:
            self.holding = True
        elif last:
            return ""
        else:
            sizes = range(min(len(opening) - 1, len(self.held)), 0, -1)
            at = len(self.held) - next((n for n in sizes if opening.startswith(self.held[-n:])), 0)
        out, self.held = self.held[:at], self.held[at:]
        return out


async def chat_events(
    handle: Handle,
    envelope: Envelope,
    tokenizer: Any,
    form: Form | None,
    calls: int | None,
    *,
    logprobs: bool,
    counted: bool,
) -> AsyncIterator[str]:
    """Events of a chat completion's stream, with at most so many `calls` of tools (None: all)."""
    choices = [_Choice(i, form, calls) for i in range(handle.request.n)]
    written = 0
    async for piece in handle:
        written += len(piece.said)
        delta, reason = choices[piece.index].delta(piece)
        if not delta and reason is None and not logprobs:
            continue
        choice: Json = {"index": piece.index, "delta": delta, "finish_reason": reason, "logprobs": None}
        if logprobs:
            choice["logprobs"] = answers.chat_logprobs(tokenizer, piece.said)
        yield event(envelope.chunk([choice]))
    if counted:
        yield event(envelope.chunk([], answers.usage(len(handle.request.prompt), written, handle.cached)))
    yield DONE


async def text_events(
    handles: Sequence[Handle],
    envelope: Envelope,
    tokenizer: Any,
    before: Sequence[str],
    *,
    logprobs: bool,
    counted: bool,
) -> AsyncIterator[str]:
    """Events of a completion's stream; `before`: what each prompt's answers begin with (its echo)."""
    written, lengths = 0, dict[int, int]()
    async for i, piece in merged(handles):
        written += len(piece.said)
        index = i * handles[i].request.n + piece.index
        text = piece.text if index in lengths else before[i] + piece.text
        choice: Json = {"index": index, "text": text, "finish_reason": piece.reason, "logprobs": None}
        if logprobs:
            choice["logprobs"] = answers.text_logprobs(tokenizer, piece.said, lengths.get(index, 0))
        lengths[index] = lengths.get(index, 0) + len(text)
        if text or piece.reason is not None or logprobs:
            yield event(envelope.chunk([choice]))
    if counted:
        prompt, cached = sum(len(h.request.prompt) for h in handles), sum(h.cached for h in handles)
        yield event(envelope.chunk([], answers.usage(prompt, written, cached)))
    yield DONE
