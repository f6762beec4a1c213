"""The text of a conversation cut where tokens never reach across, at special tokens, and put together again from the
ids of the parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from tunewright.tasks._ends import end_tokens
from tunewright.tasks._segments import ids_of, spoken

Piece = str | int
"""A text that is always the same, or the place of a turn whose content stands there."""


class Encoded(NamedTuple):
    """A conversation as token ids with weights; `start`: tokens of the prompt, `answer`: the last one's text."""

    ids: list[int]
    weights: list[float]
    start: int
    answer: str
    untrained: int


@dataclass
class Unit:
    """A special token (`fore`, "" at the beginning) and what stands after it up to the next: pieces by segment."""

    fore: str
    segments: list[tuple[int, list[Piece]]]

    @cached_property
    def varies(self) -> bool:
        """Whether something that is said stands in it."""
        return any(isinstance(p, int) for _, pieces in self.segments for p in pieces)

    def text(self, said: Sequence[str], upto: int | None = None) -> str:
        """Its text, or that of its first `upto` segments, by what is said."""
        parts = self.segments if upto is None else self.segments[:upto]
        return self.fore + filled([p for _, pieces in parts for p in pieces], said)


@dataclass
class Step:
    """What a unit adds where all but its last segment is always the same: `head` and then, if it `varies`, the rest of
    its own ids with one weight.
    """

    head: list[int]
    weights: list[float]
    varies: bool
    rest: float


@dataclass
class Pattern:
    """What a template makes of turns of some roles. `raw` is its text, `units` are what is encoded. `plain`: the last
    answer's content is all that is said.
    """

    raw: list[Piece]
    units: list[Unit]
    weights: list[float]
    untrained: int
    plain: bool
    proved: int = 0
    known: dict[str, list[int]] = field(default_factory=dict)
    steps: tuple[list[Step], tuple[int, int]] | None = None

    @cached_property
    def varying(self) -> list[Unit]:
        """The units in which something that is said stands."""
        return [unit for unit in self.units if unit.varies]

    @cached_property
    def _varying(self) -> list[list[Piece]]:
        return [[u.fore, *(p for _, pieces in u.segments for p in pieces)] for u in self.varying]

    def texts(self, said: Sequence[str]) -> list[str]:
        """The texts of the units that vary."""
        return [filled(pieces, said) for pieces in self._varying]


def filled(pieces: Sequence[Piece], said: Sequence[str]) -> str:
    """The text of pieces, by what is said in them."""
    return "".join([p if isinstance(p, str) else said[p] for p in pieces])


def units_of(tokenizer: Any, segments: Sequence[Sequence[Piece]]) -> list[Unit]:
    """Segments cut at special tokens, which are encoded by themselves whatever stands beside them."""
    special = end_tokens(tokenizer).pattern
    units = [Unit("", [])]
    for k, pieces in enumerate(segments):
        for piece in pieces:
            at = 0
            for found in special.finditer(piece) if isinstance(piece, str) else ():
                _add(units[-1], k, piece[at : found.start()])  # type: ignore[index]
                units.append(Unit(found.group(), [(k, [])]))
                at = found.end()
            _add(units[-1], k, piece[at:] if isinstance(piece, str) else piece)
    return [unit for unit in units if unit.segments]


def _add(unit: Unit, segment: int, piece: Piece) -> None:
    if piece == "":
        return
    if not unit.segments or unit.segments[-1][0] != segment:
        unit.segments.append((segment, []))
    unit.segments[-1][1].append(piece)


def steps_of(tokenizer: Any, pattern: Pattern) -> tuple[list[Step], tuple[int, int]] | None:
    """A pattern's steps, and where its prompt ends (a step, a place in it); None where they differ by what is said."""
    steps, seen, prompt = list[Step](), -1, (0, 0)
    for unit in pattern.units:
        head, weights = list[int](), list[float]()
        for n, (segment, pieces) in enumerate(unit.segments, 1):
            weight, last = pattern.weights[segment], n == len(unit.segments)
            if segment != seen and weight > 0:
                prompt = len(steps), len(head)
            seen = segment
            if last and unit.varies:
                break
            if any(isinstance(p, int) for p in pieces):
                return None
            part = ids_of(tokenizer, unit.text((), n))
            if part[: len(head)] != head:
                return None
            weights += [weight] * (len(part) - len(head))
            head = part
        steps.append(Step(head, weights, unit.varies, pattern.weights[seen]))
    return steps, prompt


def assembled(tokenizer: Any, pattern: Pattern, said: Sequence[str], encoded: Iterator[list[int]]) -> Encoded | None:
    """The ids of a conversation from those of its units; `encoded` gives those of the units that vary, in turn.

    None where a token straddles the end of a prompt.
    """
    wholes = [next(encoded) for _ in pattern.varying]
    if pattern.steps is not None:
        made = _stepped(*pattern.steps, wholes)
    else:
        made = _cut(tokenizer, pattern, said, iter(wholes))
    if made is None:
        return None
    ids, weights, start = made
    answer = said[-1]
    if not pattern.plain:
        answer = tokenizer.decode(spoken(ids, weights, start), skip_special_tokens=True)
    return Encoded(ids, weights, start, answer.strip(), pattern.untrained)


def _stepped(
    steps: Sequence[Step], prompt: tuple[int, int], wholes: list[list[int]]
) -> tuple[list[int], list[float], int] | None:
    ids: list[int] = []
    weights: list[float] = []
    starts, at = [], 0
    for step in steps:
        starts.append(len(ids))
        weights += step.weights
        if step.varies:
            whole, count = wholes[at], len(step.head)
            if whole[:count] != step.head:
                return None
            ids += whole
            weights += [step.rest] * (len(whole) - count)
            at += 1
        else:
            ids += step.head
    return ids, weights, starts[prompt[0]] + prompt[1]


def _cut(
    tokenizer: Any, pattern: Pattern, said: Sequence[str], encoded: Iterator[list[int]]
) -> tuple[list[int], list[float], int] | None:
    ids: list[int] = []
    weights: list[float] = []
    start, seen = 0, -1
    for unit in pattern.units:
        whole = next(encoded) if unit.varies else _known(tokenizer, pattern, unit.text(said))
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
    return ids, weights, start


def _known(tokenizer: Any, pattern: Pattern, text: str) -> list[int]:
    """The ids of a text that many conversations have, such as the header of an answer."""
    if text not in pattern.known:
        if len(pattern.known) > 64:
            pattern.known.clear()
        pattern.known[text] = ids_of(tokenizer, text)
    return pattern.known[text]
