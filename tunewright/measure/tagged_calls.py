"""Calls of tools that are no JSON: a tag for each argument (Qwen3-Coder, GLM, Seed), Python's (LFM2, ToolACE), or keys
with quotes of their own (Gemma 4).

What stands between a call's parts is read off a call of two arguments, with words that stand nowhere else. Values of
tags carry no types: one that is JSON of a number, a truth value, a list or an object is taken as that.
"""

from __future__ import annotations

import ast
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_ANY = r"[\w.:-]+?"


@dataclass(frozen=True)
class Tagged:
    """`opening`: what stands before the name; `first`: between it and the first key; `equals`: between a key and its
    value; `close`: what ends a value ("": the next part does); `following`: between that and the next key; `end`: what
    ends the call.
    """

    opening: str
    first: str
    equals: str
    close: str
    following: str
    end: str

    def calls(self, answer: str) -> list[tuple[str, dict[str, Any]]]:
        """(name, arguments) of an answer's calls whose special tokens are shown."""
        return list(self._calls(answer))

    def _calls(self, answer: str) -> Iterator[tuple[str, dict[str, Any]]]:
        before = loosely(self.opening)
        begun = re.compile(rf"{before}\s*(?P<name>{_ANY})\s*{loosely(self.first)}")
        again = re.compile(rf"\s*,\s*(?P<name>{_ANY})\s*{loosely(self.first)}")  # in a list of Python's calls
        bare = re.compile(rf"{before}\s*(?P<name>{_ANY})\s*{loosely(self.end)}")
        at = 0
        while (m := (again.match(answer, at) if at else None) or begun.search(answer, at)) is not None:
            arguments, at = self._arguments(answer, m.end())
            if arguments is not None:
                yield m["name"], arguments
        if at == 0 and (m := bare.search(answer)) is not None:
            yield m["name"], {}

    def _arguments(self, answer: str, at: int) -> tuple[dict[str, Any] | None, int]:
        """(the arguments from a place on, where they end); none where they are not whole."""
        found: dict[str, Any] = {}
        if self.first in "({" and (m := re.compile(rf"\s*{loosely(self.end)}").match(answer, at)) is not None:
            return found, m.end()
        while True:
            m = self._value(answer, at)
            if m is None:
                return None, at
            found[m["key"]] = m["text"] if m["text"] is not None else _typed(m["raw"])
            at = m.end()
            if (following := re.compile(rf"\s*{loosely(self.following)}").match(answer, at)) is not None:
                at = following.end()
                continue
            end = re.compile(rf"\s*{loosely(self.end)}").match(answer, at)
            return (found, end.end()) if end is not None else (None, at)

    def _value(self, answer: str, at: int) -> re.Match[str] | None:
        """A key and its value: in the quotes that texts have, or without."""
        quoted = self.equals.endswith(self.close) and bool(self.close)
        equals = self.equals.removesuffix(self.close) if quoted else self.equals
        # a text without quotes may hold what ends a call: that ends one where the list goes on or ends too
        end = loosely(self.end) + ("" if self.close else r"\s*(?:[\],]|\Z)")
        until = rf"(?=\s*{loosely(self.following)}\s*{_ANY}\s*{loosely(equals)}|\s*{end})"
        if quoted:
            quote = loosely(self.close)
            value = rf"{quote}(?P<text>.*?){quote}{until}|(?P<raw>.*?){until}"
        else:
            value = rf"(?P<text>(?!))?\s*(?P<raw>.*?)\s*{loosely(self.close)}{until}"
        return re.compile(rf"\s*(?P<key>{_ANY})\s*{loosely(equals)}(?:{value})", re.DOTALL).match(answer, at)


def _typed(text: str) -> Any:
    """A value without quotes: a number, truth value, list or object where it is one, as JSON or Python write it."""
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        return text if isinstance(found, str) and read is json.loads else found
    return text


def loosely(text: str) -> str:
    """A pattern of a text in which any white space may stand where it has some."""
    return r"\s*".join(re.escape(word) for word in text.split())


def tagged(text: str, start: int, words: tuple[str, str, str, str, str], last: Any) -> Tagged | None:
    """The form of a call in `text` from `start` on. `words`: its name, first key and value, second key and value;
    `last` finds the last mark of what stands before it. None where they do not stand in this order.
    """
    places = []
    for word in words:
        start = text.find(word, start)
        if start < 0:
            return None
        places.append((start, start + len(word)))
        start += len(word)
    (name, a), (key, b), (value, c), (other, d), (_, e) = places
    more = text[text.find(words[4], d) + len(words[4]) :]
    between, equals = text[c:other], text[b:value]
    shared = os.path.commonprefix([between, more])
    tag = re.match(r"\s*<[^<>]+>", shared)
    close = tag[0] if tag is not None else shared.rstrip()
    rest = more[len(close) :]
    end = re.match(r"\s*(?:<[^<>]+>|[)}])", rest)
    if end is None or text[d : text.find(words[4], d)].split() != equals.split():
        return None
    opening, following = last(text[:name]), between[len(close) :].strip()
    made = Tagged(opening, text[a:key].strip(), equals.strip(), close.strip(), following, end[0].strip())
    return made if made.opening and made.first and made.equals and made.following and made.end else None
