"""Conversations by the window: one rendering and one pass of the tokenizer for each, where a template puts what is said
into a text that is otherwise always the same.

What a template makes of turns of some roles is learnt once, from words that stand nowhere else, by the same code that
lays out a single conversation. Each conversation is still rendered, and its text must be what the pattern says; any
other, and any with calls, tools, thoughts or special tokens in what is said, is laid out by itself. The first
conversations of a pattern, and one of every window, are made both ways: where they differ, the pattern is given up.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

from tunewright.contract.records import RowProblem
from tunewright.errors import TunewrightError
from tunewright.tasks._chat import conversation
from tunewright.tasks._dialect import dialect_of
from tunewright.tasks._ends import end_tokens
from tunewright.tasks._found import THINK
from tunewright.tasks._render import render, render_many
from tunewright.tasks._segments import ids_of, ids_of_many, spoken

PROVED = 4
"""Conversations of a pattern that are made both ways before it is trusted."""
_SAID = re.compile("Qturn([0-9]+)q")
Piece = str | int
"""A text that is always the same, or the place of a turn whose content stands there."""


@dataclass(frozen=True)
class Encoded:
    """A conversation as token ids with weights; `start`: tokens of the prompt, `answer`: the last one's text."""

    ids: list[int]
    weights: list[float]
    start: int
    answer: str
    untrained: int


@dataclass
class _Unit:
    """A special token (`fore`, "" at the beginning) and what stands after it up to the next: pieces by segment."""

    fore: str
    segments: list[tuple[int, list[Piece]]]

    @cached_property
    def varies(self) -> bool:
        """Whether something that is said stands in it."""
        return any(isinstance(p, int) for _, pieces in self.segments for p in pieces)

    def text(self, said: Sequence[str], upto: int | None = None) -> str:
        parts = self.segments if upto is None else self.segments[:upto]
        return self.fore + "".join(p if isinstance(p, str) else said[p] for _, pieces in parts for p in pieces)


@dataclass
class Pattern:
    """What a template makes of turns of some roles. `raw` is its text, `units` are what is encoded. `plain`: the last
    answer's content is all that is said.
    """

    raw: list[Piece]
    units: list[_Unit]
    weights: list[float]
    untrained: int
    plain: bool
    proved: int = 0
    known: dict[str, list[int]] = field(default_factory=dict)

    def filled(self, said: Sequence[str]) -> str:
        """The text of a conversation, by what is said in it."""
        return "".join(p if isinstance(p, str) else said[p] for p in self.raw)


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
        plain = [(i, turns) for i, talk in enumerate(talks) if (turns := self._plain(talk)) is not None]
        if not plain:
            return out
        written = dialect_of(self.tokenizer)
        texts = render_many(self.tokenizer, [written.write(turns) for _, turns in plain])
        fitting = []
        for (i, turns), text in zip(plain, texts, strict=True):
            pattern = self._pattern(tuple(t["role"] for t in turns))
            if pattern is not None and text is not None and (said := _said(pattern, turns, text)) is not None:
                fitting.append((i, pattern, said))
        asked = [unit.text(said) for _, pattern, said in fitting for unit in pattern.units if unit.varies]
        try:
            answers = iter(ids_of_many(self.tokenizer, asked))
        except RowProblem:
            return out
        checked: set[int] = set()
        for i, pattern, said in fitting:
            made = _assembled(self.tokenizer, pattern, said, answers)
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

    def _plain(self, talk: Any) -> list[dict[str, str]] | None:
        """The turns of a conversation of plain text, None for any other."""
        if not isinstance(talk, list) or not talk or not isinstance(talk[-1], dict):
            return None
        if talk[-1].get("role") != "assistant":
            return None
        special = end_tokens(self.tokenizer).pattern
        for turn in talk:
            if not isinstance(turn, dict) or turn.keys() != {"role", "content"}:
                return None
            content = turn["content"]
            if turn["role"] not in ("system", "user", "assistant") or not isinstance(content, str):
                return None
            if not content.strip() or special.search(content) or THINK.search(content):
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
        return Pattern(raw, _units(self.tokenizer, segments), weights, talk.untrained, talk.answer is not None)


@lru_cache(maxsize=4)
def patterns_of(tokenizer: Any, template: str, system: str | None) -> Patterns:
    """The patterns of a tokenizer's chat template; `template` is its text, by which they are kept."""
    return Patterns(tokenizer, system)


def _said(pattern: Pattern, turns: Sequence[dict[str, str]], text: str) -> list[str] | None:
    """What is said in a conversation as its rendered text has it; None where the pattern does not fit."""
    said = [turn["content"] for turn in turns]
    if pattern.filled(said) == text:
        return said
    said = [s.strip() for s in said]
    return said if pattern.filled(said) == text else None


def _pieces(text: str) -> list[Piece]:
    parts = _SAID.split(text)
    pieces: list[Piece] = [int(p) if i % 2 else p for i, p in enumerate(parts)]
    return [p for p in pieces if p != ""]


def _units(tokenizer: Any, segments: Sequence[Sequence[Piece]]) -> list[_Unit]:
    """Segments cut at special tokens, which are encoded by themselves whatever stands beside them."""
    special = end_tokens(tokenizer).pattern
    units = [_Unit("", [])]
    for k, pieces in enumerate(segments):
        for piece in pieces:
            at = 0
            for found in special.finditer(piece) if isinstance(piece, str) else ():
                _add(units[-1], k, piece[at : found.start()])  # type: ignore[index]
                units.append(_Unit(found.group(), [(k, [])]))
                at = found.end()
            _add(units[-1], k, piece[at:] if isinstance(piece, str) else piece)
    return [unit for unit in units if unit.segments]


def _add(unit: _Unit, segment: int, piece: Piece) -> None:
    if piece == "":
        return
    if not unit.segments or unit.segments[-1][0] != segment:
        unit.segments.append((segment, []))
    unit.segments[-1][1].append(piece)


def _assembled(tokenizer: Any, pattern: Pattern, said: Sequence[str], encoded: Iterator[list[int]]) -> Encoded | None:
    """The ids of a conversation from those of its units; `encoded` gives those of the units that vary, in turn.

    None where a token straddles the end of a prompt.
    """
    wholes = [next(encoded) if u.varies else _known(tokenizer, pattern, u.text(said)) for u in pattern.units]
    ids: list[int] = []
    weights: list[float] = []
    start, seen = 0, -1
    for unit, whole in zip(pattern.units, wholes, strict=True):
        for n, (segment, _) in enumerate(unit.segments, 1):
            if n < len(unit.segments):
                part = _known(tokenizer, pattern, unit.text(said, n))
                if whole[: len(part)] != part:
                    return None
            else:
                part = whole
            before = 0 if n == 1 else len(_known(tokenizer, pattern, unit.text(said, n - 1)))
            weight = pattern.weights[segment]
            if segment != seen and weight > 0:
                start = len(ids)
            seen = segment
            ids += part[before:]
            weights += [weight] * (len(part) - before)
    answer = said[-1]
    if not pattern.plain:
        answer = tokenizer.decode(spoken(ids, weights, start), skip_special_tokens=True)
    return Encoded(ids, weights, start, answer.strip(), pattern.untrained)


def _known(tokenizer: Any, pattern: Pattern, text: str) -> list[int]:
    """The ids of a text that many conversations have, such as the header of an answer."""
    if text not in pattern.known:
        if len(pattern.known) > 64:
            pattern.known.clear()
        pattern.known[text] = ids_of(tokenizer, text)
    return pattern.known[text]
