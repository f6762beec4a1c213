"""A question with a context: where its answers stand, windows of a context that is too long, and the best span of two
rows of logits.

Shapes: W windows, L longest window, C tokens of the context.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tunewright.contract.records import Record, RowProblem

LONGEST_ANSWER = 30
"""Tokens of the longest span that is an answer, as BERT's run_squad has it."""
NO_SPAN = -1e4
"""What stands for a place that is none: finite, so that a mean over all places is."""
_FORM = 'write {"text": ["..."], "answer_start": [17]}, or empty lists where the context does not tell'


@dataclass(frozen=True)
class Answers:
    """The right answers of a row: their texts, and the first one's place in the context; `moved`: where it was said to
    stand, it does not, and it was found again. No text: the context does not tell.
    """

    texts: list[str]
    start: int = 0
    moved: bool = False


def answers_of(record: Record, context: str) -> Answers:
    """A row's answers as SQuAD writes them ({text, answer_start}), as a list of such, or as texts alone.

    A text without a place stands where it occurs first. RowProblem for a text that is not where it is said to be,
    unless it occurs exactly once.
    """
    found = [_place(text, start, context) for text, start in _pairs(record)]
    if not found:
        return Answers([])
    texts = list(dict.fromkeys(" ".join(text.split()) for text, _, _ in found))
    return Answers(texts, found[0][1], any(moved for _, _, moved in found))


def _pairs(record: Record) -> list[tuple[Any, Any]]:
    """(text, place or none) of each answer."""
    if "answers" not in record:
        raise RowProblem("answers", "the row has no answers", f"{_FORM}; or name the column in the source, by columns")
    given = record["answers"]
    if isinstance(given, dict):
        if "text" not in given:
            raise RowProblem("answers", "it has no text", _FORM)
        texts, starts = given["text"], given.get("answer_start")
        texts = [texts] if isinstance(texts, str) else texts
        starts = [starts] if isinstance(starts, int) else starts
        if starts is None and isinstance(texts, list):
            return [(text, None) for text in texts]
        if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
            raise RowProblem("answers", "text and answer_start are no lists of one length", _FORM)
        return list(zip(texts, starts, strict=True))
    given = [given] if isinstance(given, str) else given
    if not isinstance(given, list):
        raise RowProblem("answers", f"they are {type(given).__name__}, no texts", _FORM)
    return [(a.get("text"), a.get("answer_start")) if isinstance(a, dict) else (a, None) for a in given]


def _place(text: Any, start: Any, context: str) -> tuple[str, int, bool]:
    """(the text, its place, whether it is another than the one that is given)."""
    if not isinstance(text, str) or not text.strip():
        raise RowProblem("answers", f"{text!r:.60} is no text", _FORM)
    if start is not None and (isinstance(start, bool) or not isinstance(start, int)):
        raise RowProblem("answers", f"answer_start {start!r:.60} is no number of characters", _FORM)
    if start is not None and start >= 0 and context[start : start + len(text)] == text:
        return text, start, False
    first, count = context.find(text), context.count(text)
    if start is None and count or count == 1:
        return text, first, start is not None
    what = f"the context does not hold the answer {text[:60]!r}"
    if not count:
        raise RowProblem("answers", what, "copy the answer from the context, letter by letter")
    times = f"the answer {text[:60]!r} does not stand at character {start}, and it occurs {count} times"
    raise RowProblem("answers", times, f"write where it stands: the first is at character {first}")


def tokens_of(start: int, end: int, offsets: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    """(first, last) of the tokens that hold characters from start to end; None where none does."""
    held = [i for i, (a, b) in enumerate(offsets) if a < end and b > start and b > a]
    return (held[0], held[-1]) if held else None


def windows_of(count: int, room: int, stride: int) -> list[tuple[int, int]]:
    """(from, to) of windows of at most `room` of `count` tokens, each of which begins `stride` before the last one's
    end, so that the last window reaches the end and none lies in another.
    """
    out = [(0, min(count, room))]
    while out[-1][1] < count:
        begin = out[-1][1] - stride
        out.append((begin, min(count, begin + room)))
    return out


@dataclass(frozen=True)
class Span:
    """A span of a context's tokens, first and last, and the sum of its two logits."""

    first: int
    last: int
    score: float


def best_span(start: Tensor, end: Tensor) -> Span:
    """The best span among logits [C] of the tokens that it may begin and end with, LONGEST_ANSWER long at most."""
    sums = start[:, None] + end[None, :]
    allowed = torch.ones_like(sums, dtype=torch.bool).triu().tril(LONGEST_ANSWER - 1)
    at = int(sums.masked_fill(~allowed, -torch.inf).argmax())
    first, last = divmod(at, len(end))
    return Span(first, last, float(sums[first, last]))
