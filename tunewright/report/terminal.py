"""The table printed at the end of a run: gained, lost, cost, the dial, three answers, and where the page is.

One layout for both readers: on a terminal with colours, and as plain text that stands well in a README or a log.
"""

from __future__ import annotations

import io
import re
import sys
import textwrap
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from tunewright.report import dial_words, gate_lines, prompts, streamed, summary, words
from tunewright.report.packed import PackFigure
from tunewright.report.schema import Answer, Report

STYLES = {"better": "green", "worse": "red", "moved": "yellow"}
PLAIN = str.maketrans({"\u2212": "-", "\u2500": "-", "\u2026": "..."})  # for outputs that are not UTF-8
MOST_ANSWER = 160  # characters of a text shown in an answer; the page has the whole


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


def changes(report: Report) -> Numbers | None:
    """Every measured quantity, base and tuned, with intervals; None where nothing was measured."""
    rows = []
    for line in summary.lines(report):
        name = Text(
            "  " + line.name if line.kind == "beside" else line.name, style="bold" if line.kind == "target" else ""
        )
        if line.measured is not None and line.difference and not line.after:  # a probe's
            name.append(", tuned minus it", style="dim")
        if isinstance(line.measured, PackFigure) and line.measured.beneath:
            name.append(f", {words.beneath(line.measured)}", style="yellow")
        unit = words.unit_of(line.measured.unit) if line.measured is not None else ""
        if unit and unit != "1":
            name.append(f", {unit.replace(' per ', '/')}", style="dim")
        style = STYLES.get(line.fate, "")
        after = Cell(line.after, line.after_span, style if line.kind == "drift" else "")
        rows.append(
            (name, (Cell(line.before, line.before_span), after, Cell(line.difference, line.difference_span, style)))
        )
    return Numbers(("measured", "base", "tuned", "change"), tuple(rows)) if rows else None


def dial(report: Report) -> Numbers | None:
    """The trade at each strength; None where the change was not dialled."""
    columns, rows = summary.dial(report)
    if not rows:
        return None
    return Numbers(
        ("strength", *columns), tuple((Text(r.name), tuple(Cell(v, ends) for v, ends in r.cells)) for r in rows)
    )


def stages(report: Report) -> Numbers | None:
    """Stage by task: the target on each evaluated source after each stage; None for a run of one stage."""
    columns, rows = summary.stage_table(report)
    if not rows:
        return None
    return Numbers(
        ("after", *columns), tuple((Text(r.name), tuple(Cell(v, ends) for v, ends in r.cells)) for r in rows)
    )


def test_time(report: Report) -> Numbers | None:
    """The stream: without adaptation, online, and what that changed, of each method; None where there was none."""
    rows = []
    for line in streamed.lines(report):
        cells = [Cell(value, ends) for value, ends in line.cells]
        cells[2] = Cell(*line.cells[2], STYLES.get(line.fate, ""))
        name = Text("  " + clean(line.name) if line.inner else clean(line.name), style="" if line.inner else "bold")
        rows.append((name, tuple(cells)))
    return Numbers(("at test time", "without", "online", "change"), tuple(rows)) if rows else None


def cost(report: Report) -> Paragraph | None:
    """Cost in one or two lines; None where nothing was counted."""
    c = report.cost
    parts = []
    total = report.run.seconds if report.run.seconds is not None else (sum(c.seconds.values()) or None)
    if total is not None:
        phases = ", ".join(f"{name} {words.seconds(s)}" for name, s in c.seconds.items() if s >= 0.5)
        parts.append(words.seconds(total) + (f" ({phases})" if phases else ""))
    if c.tokens is not None:
        steps = f" in {c.steps:,} step{'' if c.steps == 1 else 's'}" if c.steps is not None else ""
        parts.append(f"{words.count(c.tokens)} {words.counted(report.task)} trained on{steps}")
    if c.trainable_parameters is not None:
        whole = report.model.parameters if report.model is not None else None
        reshaped = report.trained.parameters if report.trained is not None else None
        share = f" of {words.count(reshaped or whole or 0)}" if reshaped or whole else ""
        base = f" ({words.count(whole)} in the base)" if whole else ""
        shape = f" in the new shape{base}" if reshaped else ""
        parts.append(f"{words.count(c.trainable_parameters)}{share} parameters trained{shape}")
    if c.stored_bytes is not None:
        parts.append(f"{words.size(c.stored_bytes)} stored")
    if c.peak_memory_bytes is not None:
        parts.append(f"{words.size(c.peak_memory_bytes)} peak memory")
    return Paragraph("; ".join(parts)) if parts else None


def pick(answers: list[Answer], direction: str = "higher", most: int = 3) -> list[tuple[Answer, str]]:
    """A few answers that show different fates, in their order: one of each kind first, then the next ones."""
    judged = list(zip(answers, summary.fates(answers, direction), strict=True))
    seen: dict[str, int] = {}
    rank = []
    for i, (_, fate) in enumerate(judged):
        rank.append((seen.setdefault(fate, 0), i))
        seen[fate] += 1
    return [judged[i] for i in sorted(i for _, i in sorted(rank)[:most])]


def clean(text: str) -> str:
    """Text without what a terminal would obey: escape sequences, other control characters, changes of direction."""
    return "".join(
        "\ufffd" if unicodedata.category(c) in ("Cc", "Cf", "Cs") and c not in "\n\t\u200d" else c for c in text
    )


def _short(text: str | None) -> str:
    flat = clean(" ".join((text or "").split()))
    return flat if len(flat) <= MOST_ANSWER else flat[: MOST_ANSWER - 1] + "\u2026"


def _asked(answer: Answer) -> tuple[str, Text]:
    """What was asked and what to call it; a picture cannot be shown here, so its row is named."""
    question = clean(" ".join(prompts.shown(answer.prompt).split()))
    if question:
        return "prompt", Text(prompts.middle_cut(question, MOST_ANSWER))
    return "row", Text(clean(answer.id))


def answers(report: Report) -> RenderableType | None:
    """Three answers of base and tuned beside the reference; None where the task gives none."""
    direction = report.target.direction if report.target is not None else "higher"
    shown = [(a, fate) for a, fate in pick(report.answers, direction) if a.base or a.tuned]
    if not shown:
        return None
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for i, (answer, fate) in enumerate(shown):
        if i:
            grid.add_row("", "")
        grid.add_row(*_asked(answer))
        for name, text in (("reference", answer.reference), ("base", answer.base)):
            if text is not None:
                grid.add_row(name, Text(_short(text)))
        tuned = Text(_short(answer.tuned))
        if fate:
            tuned.append(f"  ({fate})", style=STYLES.get({"fixed": "better", "broken": "worse"}.get(fate, fate), "dim"))
        grid.add_row("tuned", tuned)
    return grid


def _heading(text: str) -> Text:
    return Text(text, style="bold")


def layout(report: Report, folder: Path | str | None = None) -> Group:
    """Everything in order, to be printed by any rich console."""
    parts: list[RenderableType] = []
    if report.run.status != "finished":
        parts += [Paragraph(words.headline(report)[0], "yellow"), Text("")]
    table = changes(report)
    if table is not None:
        parts += [table, Text("")]
        meaning = words.what_intervals_mean(report)
        parts += [Paragraph(meaning, "dim"), Text("")] if meaning else []
    staged = stages(report)
    if staged is not None:
        parts += [
            _heading(f"{words.metric_name(summary.metric_of(report))} after each stage".capitalize()),
            staged,
            Text(""),
        ]
    dialled = dial(report)
    if dialled is not None:
        parts += [_heading("The change dialled down afterwards"), dialled, Text("")]
        parts += [piece for line in dial_words.under_dial(report) for piece in (Paragraph(line), Text(""))]
    online = test_time(report)
    if online is not None:
        parts += [_heading("A stream answered in order, adapted without labels"), online, Text("")]
        parts += [Paragraph(f"{clean(a.method)}: {clean(streamed.took(a))}", "dim") for a in report.test_time]
        parts += [Text("")]
    shown = answers(report)
    if shown is not None:
        parts += [_heading("Answers side by side"), shown, Text("")]
    spent = cost(report)
    if spent is not None:
        parts += [_heading("Cost"), spent, Text("")]
    if report.gate is not None:
        parts += [_heading("Gate"), *(Paragraph(clean(line)) for line in gate_lines.lines(report.gate)), Text("")]
    cautions = words.cautions(report)
    parts += [Paragraph(f"note: {clean(note)}", "yellow") for note in cautions]
    if cautions:
        parts.append(Text(""))
    if folder is not None:
        parts.append(Text.assemble("Report: ", (str(Path(folder) / "report.html"), "bold")))
    return Group(*parts)


def text(report: Report, folder: Path | str | None = None, width: int = 100) -> str:
    """The same without colours, at most `width` characters a line, nothing behind the last one."""
    out = io.StringIO()
    Console(file=out, width=width, color_system=None, force_terminal=False, legacy_windows=False, emoji=False).print(
        layout(report, folder)
    )
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def show(report: Report, folder: Path | str | None = None, console: Console | None = None) -> None:
    """Print the summary: colours on a terminal, plain text elsewhere; what the output's encoding lacks is replaced."""
    console = console or Console(file=sys.stdout)
    encoding = (console.encoding or "utf-8").lower()
    if console.is_terminal and encoding.replace("-", "") == "utf8":
        console.print(layout(report, folder))
        return
    plain = text(report, folder)
    if encoding.replace("-", "") != "utf8":
        plain = plain.translate(PLAIN)
    console.file.write(plain.encode(encoding, "replace").decode(encoding))
