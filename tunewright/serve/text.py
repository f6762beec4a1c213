"""Text of tokens as they come: what can be shown already, and where a stop text begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

BROKEN = "\ufffd"
"""What a tokenizer writes for bytes that are no character yet."""


class Writing:
    """The text of one answer. `special`: whether special tokens are shown (a template's marks of tool calls)."""

    def __init__(self, tokenizer: Any, stop: Sequence[str] = (), *, special: bool = False):
        self._tokenizer, self._stop, self._special = tokenizer, tuple(stop), special
        self.tokens: list[int] = []
        self._shown = self._read = 0  # tokens whose text stands in `text`; tokens before which decoding begins
        self.text, self._told = "", 0
        self.stopped = False

    def add(self, token: int) -> str:
        """What can be shown anew, once this token is there; `stopped` when a stop text was met."""
        self.tokens.append(token)
        before = self._decode(self.tokens[self._read : self._shown])
        now = self._decode(self.tokens[self._read :])
        if now.endswith(BROKEN) or len(now) <= len(before):
            return ""
        self.text += now[len(before) :]
        self._read, self._shown = self._shown, len(self.tokens)
        return self._tell(last=False)

    def end(self) -> str:
        """What is left to show."""
        if self.stopped:
            return ""
        before = self._decode(self.tokens[self._read : self._shown])
        self.text += self._decode(self.tokens[self._read :])[len(before) :]
        self._shown = self._read = len(self.tokens)
        return self._tell(last=True)

    def _decode(self, tokens: Sequence[int]) -> str:
        shown = not self._special
        return str(self._tokenizer.decode(tokens, skip_special_tokens=shown, clean_up_tokenization_spaces=False))

    def _tell(self, *, last: bool) -> str:
        """The text that was not told yet, without what may be the start of a stop text."""
        longest = max(map(len, self._stop), default=0)
        start = max(0, self._told - longest)
        met = [at for s in self._stop if (at := self.text.find(s, start)) >= 0]
        if met:
            self.text, self.stopped = self.text[: min(met)], True
        end = len(self.text)
        if not last and not self.stopped:
            held = (
                n for n in range(min(longest - 1, end), 0, -1) if any(s.startswith(self.text[-n:]) for s in self._stop)
            )
            end -= next(held, 0)
        new, self._told = self.text[self._told : end], max(end, self._told)
        return new
