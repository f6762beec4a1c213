"""The table printed at the end of a run: gained, lost, cost, the dial, three answers, and where the page is.

One layout for both readers: on a terminal with colours, and as plain text that stands well in a README or a log.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from tunewright.report import (
    along_table,
    dial_words,
    gate_lines,
    prompts,
    sentences,
    sequence_table,
    streamed,
    summary,
    words,
)
from tunewright.report.packed import PackFigure
from tunewright.report.schema import Answer, Report
from tunewright.report.terminal_cells import STYLES, Cell, Numbers, Paragraph, clean, heading

PLAIN = str.maketrans({"\u2212": "-", "\u2500": "-", "\u2026": "..."})  # for outputs that are not UTF-8
MOST_ANSWER = 160  # characters of a text shown in an answer; the page has the whole


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
        base = f" ({words.count(whole)} in the base)" if whole else ""
        shape = f" in the new shape{base}" if reshaped else ""
        parts.append(words.trained_of(c.trainable_parameters, reshaped or whole) + shape)
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
        for name, text in (("reference", answer.reference or None), ("base", answer.base)):
            if text is not None:
                grid.add_row(name, Text(_short(text)))
        tuned = Text(_short(answer.tuned))
        if fate:
            tuned.append(f"  ({fate})", style=STYLES.get({"fixed": "better", "broken": "worse"}.get(fate, fate), "dim"))
        grid.add_row("tuned", tuned)
    return grid


def layout(report: Report, folder: Path | str | None = None) -> Group:
    """Everything in order, to be printed by any rich console."""
    parts: list[RenderableType] = []
    if report.run.status != "finished":
        parts += [Paragraph(sentences.headline(report)[0], "yellow"), Text("")]
    table = changes(report)
    if table is not None:
        parts += [table, Text("")]
        meaning = sentences.what_intervals_mean(report)
        parts += [Paragraph(meaning, "dim"), Text("")] if meaning else []
    parts += sequence_table.tables(report)
    parts += along_table.tables(report)
    staged = stages(report)
    if staged is not None:
        parts += [
            heading(words.capital(f"{words.metric_name(summary.metric_of(report))} after each stage")),
            staged,
            Text(""),
        ]
    dialled = dial(report)
    if dialled is not None:
        parts += [heading("The change dialled down afterwards"), dialled, Text("")]
        parts += [piece for line in dial_words.under_dial(report) for piece in (Paragraph(line), Text(""))]
    online = test_time(report)
    if online is not None:
        parts += [heading("A stream answered in order, adapted without labels"), online, Text("")]
        parts += [Paragraph(f"{clean(a.method)}: {clean(streamed.took(a))}", "dim") for a in report.test_time]
        parts += [Text("")]
    shown = answers(report)
    if shown is not None:
        parts += [heading("Answers side by side"), shown, Text("")]
    spent = cost(report)
    if spent is not None:
        parts += [heading("Cost"), spent, Text("")]
    if report.gate is not None:
        parts += [heading("Gate"), *(Paragraph(clean(line)) for line in gate_lines.lines(report.gate)), Text("")]
    cautions = sentences.cautions(report)
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
