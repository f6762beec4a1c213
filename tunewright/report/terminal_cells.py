"""Pieces of what is printed on a terminal: numbers with their intervals in tables, wrapped text, clean text."""

from __future__ import annotations

import re
import textwrap
import unicodedata
from dataclasses import dataclass

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

STYLES = {"better": "green", "worse": "red", "moved": "yellow"}


@dataclass(frozen=True)
class Cell:
    """A number with its interval's ends, as text."""

    value: str = ""
    ends: str = ""
    style: str = ""

    @property
    def interval(self) -> str:
        return f"[{self.ends.replace(' to ', ', ')}]" if self.ends else ""

    def text(self, width: int, stacked: bool) -> Text:
        """The number to the right of `width` characters, its interval behind or (`stacked`) below it."""
        number, ends = Text(self.value.rjust(width), style=self.style), Text(self.interval, style="dim")
        return (number.append("\n") if stacked else number.append("  ")).append_text(ends) if self.interval else number


@dataclass(frozen=True)
class Numbers:
    """A table of numbers with intervals that are never cut: where the width does not hold both side by side, the
    interval goes below its number; values stand under each other in both."""

    headings: tuple[str, ...]
    rows: tuple[tuple[Text, tuple[Cell, ...]], ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        wide = self.table(stacked=False)
        fits = (
            Measurement.get(console, options.update(width=10_000, max_width=10_000), wide).maximum <= options.max_width
        )
        yield wide if fits else self.table(stacked=True)

    def table(self, stacked: bool) -> Table:
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column(self.headings[0])
        columns = list(zip(*(cells for _, cells in self.rows), strict=True))
        widths = [0 if stacked else max(len(c.value) for c in cells) for cells in columns]
        for heading, cells, width in zip(self.headings[1:], columns, widths, strict=True):
            if stacked:
                table.add_column(
                    heading, justify="right", min_width=max(max(len(c.value), len(c.interval)) for c in cells)
                )
            else:
                table.add_column(heading.rjust(width), no_wrap=True)
        for name, cells in self.rows:
            table.add_row(name, *(cell.text(width, stacked) for cell, width in zip(cells, widths, strict=True)))
        return table


_UNITS = re.compile(r"(?<=\d) (?=(?:%|(?:s|min|h|[kMGT]?B)\b))|(?<=\d min) (?=\d)|(?<=\d h) (?=\d)")


@dataclass(frozen=True)
class Paragraph:
    """A text that is wrapped between words, a number and its unit never apart."""

    said: str
    style: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        together = _UNITS.sub("\u00a0", self.said)
        lines = textwrap.wrap(together, max(20, options.max_width), break_on_hyphens=False) or [""]
        yield Text("\n".join(lines).replace("\u00a0", " "), style=self.style, no_wrap=True)


def clean(text: str) -> str:
    """Text without what a terminal would obey: escape sequences, other control characters, changes of direction."""
    return "".join(
        "\ufffd" if unicodedata.category(c) in ("Cc", "Cf", "Cs") and c not in "\n\t\u200d" else c for c in text
    )


def heading(text: str) -> Text:
    """A line above a table."""
    return Text(text, style="bold")
