"""Test time in words and lines, the same in the terminal and on the page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tunewright.report import words
from tunewright.report.adaptations import Adaptation
from tunewright.report.measured import Measured
from tunewright.report.schema import Report
from tunewright.report.summary import file_names


@dataclass(frozen=True)
class StreamLine:
    """One method on the stream or on one source of it: (value, interval) without adaptation, online, and the change."""

    name: str
    inner: bool
    fate: str
    cells: tuple[tuple[str, str], tuple[str, str], tuple[str, str]]


def lines(report: Report) -> list[StreamLine]:
    """Every method on the whole stream, then on each of its sources."""
    return [line for found in report.test_time for line in _lines(found)]


def _lines(found: Adaptation) -> Iterator[StreamLine]:
    yield _line(found.method, found, inner=False)
    names = file_names([m.name or "" for m in found.sources])
    for name, measured in zip(names, found.sources, strict=True):
        yield _line(name, measured, inner=True)


def _line(name: str, measured: Measured, *, inner: bool) -> StreamLine:
    unit, by = measured.unit, measured.difference
    before, after = (
        ("", "") if x is None else (words.score(x.value, unit), words.span(x, unit))
        for x in (measured.before, measured.after)
    )
    change = ("", "") if by is None else (words.score(by.value, unit, sign=True), words.span(by, unit))
    return StreamLine(name, inner, words.verdict(measured), (before, after, change))


def online(found: Adaptation) -> str:
    """'tent, online: accuracy 61.2 % (56.1 to 66.0), 55.0 % without adaptation: +6.2 points (1.4 to 11.0)'."""
    parts = [f"{found.method}, online: {words.metric_name(found.metric)}"]
    if found.after is not None:
        parts.append(words.with_ends(found.after, found.unit))
    said = " ".join(parts)
    if found.before is not None:
        said += f", {words.score(found.before.value, found.unit)} without adaptation"
    if found.difference is not None:
        ends = words.span(found.difference, found.unit)
        said += f": {words.score(found.difference.value, found.unit, sign=True)} points" + (
            f" ({ends})" if ends else ""
        )
    return said


def took(found: Adaptation) -> str:
    """What a stream took: its updates, and how often what an answer without adaptation takes; guard and order."""
    rows = f"{found.n:,} rows in {found.batches:,} batches" if found.n is not None else f"{found.batches:,} batches"
    parts = [f"{rows}, {found.forwards:,} forward and {found.backwards:,} backward passes"]
    if found.flops and found.flops_without:
        parts.append(f"{words.plain(found.flops / found.flops_without, 2)} times the operations of no adaptation")
    parts.append(f"{words.count(found.moved_parameters)} parameters could move")
    again = {"never": "never set back", "source": "set back at each source", "batch": "set back at each batch"}
    parts.append(again.get(found.reset, "set back at each row"))
    if found.restored:
        first = found.restored[0]
        times = "once" if len(found.restored) == 1 else f"{len(found.restored)} times"
        parts.append(f"the guard restored the tuned weights {times}, first at batch {first.batch}: {first.why}")
    return "; ".join(parts)
