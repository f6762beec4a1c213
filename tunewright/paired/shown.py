"""What `tunewright measure` prints: both sides' figures, their differences, and what to know of them."""

from __future__ import annotations

import io

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from tunewright.measure.drift import Drift
from tunewright.measure.intervals import Interval
from tunewright.paired.figures import CHOICE
from tunewright.paired.result import Compared, Pair, SideInfo
from tunewright.report import gate_lines, pack_words, words
from tunewright.report.cells import cell
from tunewright.report.measured import Measured
from tunewright.report.packed import PackFigure
from tunewright.report.schema import Probe
from tunewright.report.terminal_cells import STYLES, Cell, Numbers, Paragraph, clean


def table(pair: Pair) -> Numbers | None:
    """Every figure of both sides with intervals; None where nothing was measured."""
    rows = []
    if pair.target is not None:
        name = words.metric_name(pair.target.metric)
        rows.append(_row(pair.target, name if pair.target.name == "target" else _beside(pair.target), "bold"))
    rows += [_row(m, _beside(m), "") for m in pair.others]
    rows += [_row(m, words.subject(m), "") for m in pair.kept]
    for figure, name, kind, note in pack_words.lines(pair.packs):
        said = ("  " if kind == "beside" else "") + ", ".join(t for t in (name, note) if t)
        rows.append(_row(figure, said, "", pack_words.fate(figure)))
    if pair.calibration is not None:
        rows.append(_row(pair.calibration, words.metric_name(pair.calibration.metric), ""))
    if pair.drift is not None:
        kind = Drift(pair.drift.measure, pair.drift.value).measure
        drift = Text(f"drift: {words.drift_name(kind, 'the first')}")
        if unit := words.drift_unit(kind, pair.task):
            drift.append(f", {unit.replace(' per ', '/')}")
        rows.append((drift, (Cell("0"), _cell(pair.drift.value, "nats"), Cell())))
    return Numbers(("measured", "first", "second", "change"), tuple(rows)) if rows else None


def _beside(measured: Compared) -> str:
    if measured.name == CHOICE:
        return "  choosing the likeliest label"
    return f"{words.metric_name(measured.metric)}: {measured.name}"


def _row(measured: Measured, name: str, style: str, fate: str | None = None) -> tuple[Text, tuple[Cell, ...]]:
    text = Text(clean(name), style=style)
    if unit := words.unit_of(measured.unit):
        text.append(f", {unit.replace(' per ', '/')}", style="dim")
    d = measured.difference
    change = Cell(
        "" if d is None else words.score(d.value, measured.unit, sign=True),
        words.span(d, measured.unit),
        STYLES.get(fate or words.verdict(measured), ""),
    )
    return text, (_cell(measured.before, measured.unit), _cell(measured.after, measured.unit), change)


def _cell(interval: Interval | None, unit: str) -> Cell:
    return Cell() if interval is None else Cell(words.score(interval.value, unit), words.span(interval, unit))


def mcnemar(measured: Compared | PackFigure) -> str | None:
    """What the rows say on which only one side is right."""
    if measured.right is None or measured.mcnemar is None:
        return None
    first, second = measured.right
    if isinstance(measured, PackFigure):
        name = words.subject(measured)
    else:
        name = _beside(measured).strip() if measured.name != "target" else words.metric_name(measured.metric)
    rows = "row" if first == 1 else "rows"
    return (
        f"{name}: {first:,} {rows} only the first has right, {second:,} only the second (McNemar's exact p = "
        f"{words.plain(measured.mcnemar, 2)})"
    )


def intervals(pair: Pair) -> str:
    """What the intervals are over."""
    figures: list[Measured] = [m for m in (pair.target, *pair.others, *pair.kept, *pair.packs) if m is not None]
    units = {m.difference.unit for m in figures if m.difference is not None}
    over = sorted({words.KINDS[u] for u in units | ({pair.drift.value.unit} if pair.drift is not None else set())})
    if not over:
        return ""
    if pair.target is not None and pair.target.metric in words.PLAYED:
        over = ["episodes", *(kind for kind in over if kind != "rows" or pair.others)]
    paired = "episodes" if "episodes" in over else "rows"
    said = f"Intervals: 95 %, over {' and '.join(over)}, paired on the same {paired}."
    if "seeds" in over:
        return f"Intervals: 95 %, over {' and '.join(over)}."
    return said + " They describe these two models; other seeds or rows may move further than they say."


def _named(side: SideInfo) -> str:
    """What was named, and of a harness's output which model that asked."""
    return ", ".join(side.names) + (f" ({side.model})" if side.model else "")


def layout(pair: Pair) -> Group:
    """Everything in order, to be printed by any rich console."""
    parts: list[RenderableType] = [
        Paragraph(f"first   {clean(_named(pair.first))}"),
        Paragraph(f"second  {clean(_named(pair.second))}"),
        Text(""),
    ]
    if (numbers := table(pair)) is not None:
        parts += [numbers, Text("")]
    if meaning := intervals(pair):
        parts += [Paragraph(meaning, "dim"), Text("")]
    tests = [t for m in (pair.target, *pair.others, *pair.packs) if m is not None and (t := mcnemar(m))]
    parts += [Paragraph(t) for t in tests] + ([Text("")] if tests else [])
    for name, probe in pair.probes.items():
        parts += [*_probe(name, probe), Text("")]
    parts += [Paragraph(f"note: {clean(note)}", "yellow") for note in pair.notes]
    if pair.gate is not None:
        parts += [Text(clean(line)) for line in gate_lines.lines(pair.gate)]
    return Group(*parts)


MOST = 12
"""Rows of a probe's table that are printed; measured.json has them all."""


def _probe(name: str, probe: Probe) -> list[RenderableType]:
    """A probe's values and the first rows of its table."""
    parts: list[RenderableType] = [Text(clean(probe.title or name), style="bold")]
    parts += [Paragraph(clean(probe.description), "dim")] if probe.description else []
    parts += [Text(f"  {clean(key.replace('_', ' '))}: {clean(cell(value))}") for key, value in probe.values.items()]
    if probe.rows:
        table = Table(*probe.columns, box=None, pad_edge=False, padding=(0, 2, 0, 2), header_style="dim")
        for row in probe.rows[:MOST]:
            table.add_row(*(clean(cell(value)) for value in row))
        parts.append(table)
    if len(probe.rows) > MOST:
        parts.append(Paragraph(f"  {len(probe.rows) - MOST} more rows: --json, or measured.json", "dim"))
    return parts


def text(pair: Pair, width: int = 100) -> str:
    """The same without colours, at most `width` characters a line."""
    out = io.StringIO()
    Console(file=out, width=width, color_system=None, force_terminal=False, emoji=False).print(layout(pair))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"
