"""A pack's figures in words and lines, the same in the terminal and on the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from tunewright.measure.intervals import Interval
from tunewright.report import words
from tunewright.report.measured import Measured
from tunewright.report.packed import PackFigure


def lines(packs: Sequence[PackFigure]) -> Iterator[tuple[Measured, str, str, str]]:
    """(figure, its name, its kind of line, a note) of every pack: the whole, its groups, its answers."""
    for pack in packs:
        yield pack, words.subject(pack), "kept", words.beneath(pack)
        for part in pack.parts:
            yield part, str(part.name), "beside", ""
        for figure in pack.answers:
            yield figure, words.metric_name(figure.metric), "beside", ""


def compared(base: Mapping[str, float], arms: Sequence[tuple[str, Mapping[str, Interval]]]) -> Iterator[str]:
    """What each method of a comparison changed of the packs' right answers, a sentence a pack."""
    for name, before in base.items():
        each = [f"{arm} {_points(packs[name])}" for arm, packs in arms if name in packs]
        if each:
            was = words.score(before, "fraction")
            yield f"Accuracy on {name}, {was} before training, changed in points: {', '.join(each)}."


def _points(change: Interval) -> str:
    ends = words.span(change, "fraction")
    return words.score(change.value, "fraction", sign=True) + (f" ({ends})" if ends else "")


NEITHER = ("answer_length", "repetition")
"""Figures of answers that are neither better nor worse where they change."""


def fate(measured: Measured) -> str:
    """better, worse, same or unclear; of what is neither better nor worse, moved."""
    told = words.verdict(measured)
    if measured.metric in NEITHER:
        return "moved" if told in ("better", "worse") else told
    return "unclear" if isinstance(measured, PackFigure) and measured.beneath else told
