"""The table of figures along a stage on a terminal: where each stood, how far it fell, when it was back."""

from __future__ import annotations

from rich.console import RenderableType
from rich.text import Text

from tunewright.report import along_words
from tunewright.report.schema import Report
from tunewright.report.terminal_cells import STYLES, Cell, Numbers, Paragraph, clean, heading


def tables(report: Report) -> list[RenderableType]:
    """A table for each stage that was followed; nothing where none was."""
    parts: list[RenderableType] = []
    for stage, lines in along_words.stages(report):
        parts += [heading(f"Along the way of {clean(stage)}" if stage else "Along the way")]
        rows = []
        for line in lines:
            start, worst, drop, back, end = (Cell(value, ends) for value, ends in line.cells)
            drop = Cell(drop.value, drop.ends, STYLES.get(line.fate, ""))
            rows.append((Text(clean(line.name)), (start, Cell(worst.value), drop, back, end)))
        parts += [Numbers(("", *along_words.COLUMNS), tuple(rows)), Text("")]
    if parts:
        parts += [Paragraph(f"{along_words.MEANING}.", "dim"), Text("")]
    return parts
