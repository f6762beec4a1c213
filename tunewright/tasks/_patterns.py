"""Conversations by the window: one rendering and one pass of the tokenizer for each, where a template puts what is said
into a text that is otherwise always the same.

What a template makes of turns of some roles is learnt once, from words that stand nowhere else, by the same code that
lays out a single conversation. Each conversation is still rendered, and its text must be what the pattern says; any
other, and any with calls, tools, thoughts or special tokens in what is said, is laid out by itself. The first
conversations of a pattern, and one of every window, are made both ways: where they differ, the pattern is given up.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from tunewright.contract.records import RowProblem
from tunewright.errors import TunewrightError
from tunewright.tasks._chat import conversation
from tunewright.tasks._dialect import dialect_of
from tunewright.tasks._ends import end_tokens
from tunewright.tasks._found import THINK
from tunewright.tasks._render import render, render_many
from tunewright.tasks._segments import ids_of_many
from tunewright.tasks._units import Encoded, Pattern, Piece, assembled, filled, steps_of, units_of

PROVED = 4
"""Conversations of a pattern that are made both ways before it is trusted."""
_SAID = re.compile("Qturn([0-9]+)q")


@dataclass
class Patterns:
    """The patterns of one tokenizer's template, by roles."""

    tokenizer: Any
    system: str | None
    by_roles: dict[tuple[str, ...], Pattern | None] = field(default_factory=dict)

    def encode(self, talks: Sequence[Any], alone: Callable[[int], Encoded | None]) -> list[Encoded | None]:
        """Conversations, each a list of turns, encoded; None for those that are to be laid out by themselves, which
        `alone` does for one.
        """
        out: list[Encoded | None] = [None] * len(talks)
        unlike = re.compile(f"{end_tokens(self.tokenizer).pattern.pattern}|{THINK.pattern}")
        plain = [(i, turns) for i, talk in enumerate(talks) if (turns := self._plain(talk, unlike)) is not None]
        if not plain:
            return out
        written = dialect_of(self.tokenizer)
        texts = render_many(self.tokenizer, [written.write(turns) if written.parts else turns for _, turns in plain])
        fitting = []
        for (i, turns), text in zip(plain, texts, strict=True):
            pattern = self._pattern(tuple([t["role"] for t in turns]))
            if pattern is not None and text is not None and (said := _said(pattern, turns, text)) is not None:
                fitting.append((i, pattern, said))
        try:
            answers = iter(
                ids_of_many(self.tokenizer, [t for _, pattern, said in fitting for t in pattern.texts(said)])
            )
        except RowProblem:
            return out
        checked: set[int] = set()
        for i, pattern, said in fitting:
            made = assembled(self.tokenizer, pattern, said, answers)
            if made is not None and (pattern.proved < PROVED or id(pattern) not in checked):
                checked.add(id(pattern))
                pattern.proved += 1
                if alone(i) != made:
                    pattern.proved = -(1 << 30)
            out[i] = made
        for i, pattern, _ in fitting:
            if pattern.proved < 0:
                out[i] = None
                self.by_roles = {r: None if p is pattern else p for r, p in self.by_roles.items()}
        return out

    def _plain(self, talk: Any, unlike: re.Pattern[str]) -> list[dict[str, str]] | None:
        """The turns of a conversation of plain text, none of which is `unlike` it; None for any other."""
        if not isinstance(talk, list) or not talk or not isinstance(talk[-1], dict):
            return None
        if talk[-1].get("role") != "assistant":
            return None
        for turn in talk:
            if not isinstance(turn, dict) or len(turn) != 2 or "role" not in turn or "content" not in turn:
                return None
            content = turn["content"]
            if turn["role"] not in ("system", "user", "assistant") or not isinstance(content, str):
                return None
            if not content.strip() or unlike.search(content):
                return None
        if self.system and talk[0]["role"] != "system":
            return [{"role": "system", "content": self.system}, *talk]
        return talk

    def _pattern(self, roles: tuple[str, ...]) -> Pattern | None:
        if roles not in self.by_roles:
            try:
                self.by_roles[roles] = self._learnt(roles)
            except (TunewrightError, RowProblem):  # what is wrong is said of each conversation by itself
                self.by_roles[roles] = None
        return self.by_roles[roles]

    def _learnt(self, roles: tuple[str, ...]) -> Pattern | None:
        turns = [{"role": role, "content": f"Qturn{i}q"} for i, role in enumerate(roles)]
        raw = _pieces(render(self.tokenizer, dialect_of(self.tokenizer).write(turns)))
        talk = conversation(self.tokenizer, turns, system=self.system)
        segments = [_pieces(text) for text, _ in talk.segments]
        if [p for p in raw if isinstance(p, int)] != list(range(len(roles))):
            return None
        if [p for pieces in segments for p in pieces if isinstance(p, int)] != list(range(len(roles))):
            return None
        weights = [w for _, w in talk.segments]
        made = Pattern(raw, units_of(self.tokenizer, segments), weights, talk.untrained, talk.answer is not None)
        made.steps = steps_of(self.tokenizer, made)
        return made


@lru_cache(maxsize=4)
def patterns_of(tokenizer: Any, template: str, system: str | None) -> Patterns:
    """The patterns of a tokenizer's chat template; `template` is its text, by which they are kept."""
    return Patterns(tokenizer, system)


def _said(pattern: Pattern, turns: Sequence[dict[str, str]], text: str) -> list[str] | None:
    """What is said in a conversation as its rendered text has it; None where the pattern does not fit."""
    said = [turn["content"] for turn in turns]
    if filled(pattern.raw, said) == text:
        return said
    said = [s.strip() for s in said]
    return said if filled(pattern.raw, said) == text else None


def _pieces(text: str) -> list[Piece]:
    parts = _SAID.split(text)
    pieces: list[Piece] = [int(p) if i % 2 else p for i, p in enumerate(parts)]
    return [p for p in pieces if p != ""]
