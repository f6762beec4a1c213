"""Many runs as a table for the terminal."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tunewright.finished.folders import Held
from tunewright.finished.pruning import Going
from tunewright.report import words
from tunewright.report.terminal_cells import clean

COLUMNS: dict[str, Callable[[Held], str]] = {
    "run": lambda r: clean(str(r.folder)),
    "state": lambda r: r.state,
    "model": lambda r: clean(r.model),
    "methods": lambda r: clean(" + ".join(r.methods)),
    "metric": lambda r: words.metric_name(r.metric) if r.metric else "",
    "target": lambda r: _target(r),
    "change": lambda r: _change(r),
    "interval": lambda r: _interval(r),
    "worst kept": lambda r: "" if r.kept is None else f"{words.score(r.kept, r.kept_unit, sign=True)} {r.kept_name}",
    "drift": lambda r: "" if r.drift is None else words.plain(r.drift, 2),
    "gate": lambda r: r.gate,
    "time": lambda r: "" if r.seconds is None else words.seconds(r.seconds),
    "disk": lambda r: words.size(r.bytes),
}
RIGHT = frozenset({"change", "interval", "worst kept", "drift", "time", "disk"})
NARROW = ("model", "interval", "gate", "metric", "worst kept", "time", "drift")
"""What a narrow terminal leaves out, in this order, until the rest fits."""


def listed(runs: Sequence[Held], width: int | None = None) -> str:
    """The table of runs, what cannot be read below it."""
    if not runs:
        return "there is no run here"
    out = _console(width)
    shown = {name: of for name, of in COLUMNS.items() if any(of(r) for r in runs)}
    table = _table(runs, shown)
    for name in NARROW:
        if _console(10_000).measure(table).maximum <= out.width:
            break
        shown.pop(name, None)
        table = _table(runs, shown)
    out.print(table)
    for run in runs:
        if run.problem:
            out.print(Text(clean(f"{run.folder}: {run.problem}")))
    total = words.size(sum(r.bytes for r in runs))
    out.print(Text(f"{len(runs):,} run{'' if len(runs) == 1 else 's'}, {total}"))
    return _said(out)


def _table(runs: Sequence[Held], shown: Mapping[str, Callable[[Held], str]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in shown:
        right = name in RIGHT
        table.add_column(name, justify="right" if right else "left", overflow="fold", no_wrap=name != "run")
    for run in runs:
        table.add_row(*(Text(of(run)) for of in shown.values()))
    return table


def pruned(going: Sequence[Going], freed: int | None, width: int | None = None) -> str:
    """What goes of each run, or why nothing does; `freed`: bytes that were removed, None where none was."""
    if not going:
        return "there is no run here"
    out = _console(width)
    for one in going:
        what = f"{', '.join(one.names)} ({words.size(one.bytes)})" if one.names else f"stays: {one.why}"
        out.print(Text(clean(f"{one.run.folder}: {what}")))
    total = words.size(sum(one.bytes for one in going))
    told = f"{total} would go: add --yes to remove it" if freed is None else f"{words.size(freed)} removed"
    out.print(Text(told if any(one.names for one in going) else "nothing to remove"))
    return _said(out)


def _target(run: Held) -> str:
    if run.target is None:
        return ""
    before, after, *_ = run.target
    return f"{words.score(before, run.unit)} to {words.score(after, run.unit)}"


def _change(run: Held) -> str:
    if run.target is None:
        return ""
    before, after, *_ = run.target
    return words.score(after - before, run.unit, sign=True)


def _interval(run: Held) -> str:
    if run.target is None or run.target[2] is None or run.target[3] is None:
        return ""
    return f"[{words.score(run.target[2], run.unit, sign=True)}, {words.score(run.target[3], run.unit, sign=True)}]"


def _console(width: int | None) -> Console:
    return Console(file=io.StringIO(), width=width or Console().width, highlight=False, emoji=False, soft_wrap=False)


def _said(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().rstrip("\n")
