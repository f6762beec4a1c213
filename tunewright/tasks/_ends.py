"""The tokens that end turns, found in text: a tokenizer's special ones, named or added."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any


@dataclass(frozen=True)
class Ends:
    """Special tokens as one pattern; places are characters."""

    pattern: re.Pattern[str]

    def last(self, text: str) -> int:
        """Where the last one ends, 0 where there is none."""
        return max((m.end() for m in self.pattern.finditer(text)), default=0)

    def begin(self, text: str) -> int | None:
        """Where the last one begins, None where there is none."""
        return max((m.start() for m in self.pattern.finditer(text)), default=None)

    def first(self, text: str) -> str:
        """The text up to the end of one that it begins with, but for white space; "" where it begins otherwise."""
        found = self.pattern.match(text, len(text) - len(text.lstrip()))
        return text[: found.end()] if found else ""

    def ends(self, text: str) -> bool:
        """Whether one of them is the last thing in a text, but for white space."""
        end = self.last(text[-200:])
        return bool(end) and not text[-200:][end:].strip()

    def without(self, text: str) -> str:
        """The text without any of them."""
        return self.pattern.sub("", text)


def end_tokens(tokenizer: Any) -> Ends:
    """The tokens that may end a turn of a tokenizer's texts."""
    return _ends(tokenizer, tuple(tokenizer.all_special_tokens))


@lru_cache(maxsize=8)
def _ends(tokenizer: Any, named: tuple[str, ...]) -> Ends:
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    tokens = {t for t in (*named, *(str(a) for a in added if a.special)) if t.strip()}
    longest_first = sorted(tokens, key=lambda t: (-len(t), t))
    return Ends(re.compile("|".join(map(re.escape, longest_first)) or r"(?!)"))
