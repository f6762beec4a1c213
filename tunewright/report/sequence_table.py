"""The tables of a sequence of tasks on a terminal: the matrix, what follows from it, what each task cost and left."""

from __future__ import annotations

from rich.console import RenderableType
from rich.text import Text

from tunewright.report import sequence_words, summary, words
from tunewright.report.schema import Report
from tunewright.report.terminal_cells import STYLES, Cell, Numbers, Paragraph, clean, heading


def tables(report: Report) -> list[RenderableType]:
    """Everything of the sequence, in order; nothing where there is none."""
    sequence = report.sequence
    if sequence is None or report.target is None:
        return []
    metric = words.metric_name(summary.metric_of(report))
    parts: list[RenderableType] = [heading(f"A sequence of tasks: {metric} on each after each")]
    parts += [Paragraph(clean(sequence_words.told(sequence)), "dim"), _matrix(report), Text("")]
    lines = [(Text(f.name), (Cell(f.value, f.ends, STYLES.get(f.fate, "")),)) for f in sequence_words.figures(report)]
    parts += [Numbers(("over the sequence", ""), tuple(lines)), Text("")]
    columns, rows = sequence_words.after(report)
    if columns:
        of_stages = sequence_words.thinned(rows)
        cells = tuple((Text(clean(n)), tuple(Cell(v, ends) for v, ends in of)) for n, of in of_stages)
        parts += [Numbers(("after", *map(clean, columns)), cells), Text("")]
        if "held" in columns:
            parts += [Paragraph("held: what methods keep for later tasks", "dim"), Text("")]
    return parts


def _matrix(report: Report) -> Numbers:
    sequence = report.sequence
    assert sequence is not None
    if len(sequence.tasks) > sequence_words.MOST:
        lines = sequence_words.by_task(report)
        rows = tuple((Text(clean(n)), tuple(Cell(v, ends) for v, ends in of)) for n, of in lines)
        return Numbers(("task", "base", "after its own", "at the end"), rows)
    ends = len(sequence.tasks) <= sequence_words.WITH_ENDS

    def shown(c: sequence_words.MatrixCell) -> Cell:
        return Cell(c.value, c.ends if ends else "", "bold" if c.own else "dim" if c.ahead else "")

    matrix = sequence_words.thinned(sequence_words.matrix(report))
    return Numbers(
        ("after", *map(clean, sequence.tasks)),
        tuple((Text(clean(name)), tuple(map(shown, row))) for name, row in matrix),
    )
