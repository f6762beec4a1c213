"""What a run of several adapters gives beside their own reports: a line for each, as figures, a table and a page."""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tunewright.files.checkpoint import write_text
from tunewright.report import notebook, page, words
from tunewright.report.schema import Report
from tunewright.report.terminal_cells import clean


@dataclass
class AdapterLine:
    """One adapter: its folder is `name`, in the run's. What was not measured is None, and all figures are where it
    did not finish; `error` says why.

    `metric`, `base` and `tuned` are the target's, in `unit`. `seconds` are those of its own work, and its share of what
    was done for several at once; `flops` are counted.
    """

    name: str
    methods: str
    metric: str | None = None
    unit: str | None = None
    base: float | None = None
    tuned: float | None = None
    difference: float | None = None
    steps: int | None = None
    tokens: int | None = None
    trainable: int | None = None
    seconds: float | None = None
    flops: float | None = None
    error: str | None = None

    @classmethod
    def of(cls, name: str, methods: str, report: Report | None, error: str | None = None) -> AdapterLine:
        """The line of a finished run, or of one that ended in an error."""
        if report is None:
            return cls(name, methods, error=error)
        target, cost = report.target, report.cost
        line = cls(name, methods, error=error)
        if target is not None:
            line.metric, line.unit = target.metric, target.unit
            line.base, line.tuned, line.difference = (
                None if i is None else i.value for i in (target.before, target.after, target.difference)
            )
        line.steps, line.tokens, line.trainable = cost.steps, cost.tokens, cost.trainable_parameters
        line.seconds, line.flops = sum(cost.seconds.values()), cost.flops
        return line


@dataclass
class AdaptersSummary:
    """The lines of all adapters, in the recipe's order."""

    name: str
    adapters: list[AdapterLine]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def rows(self) -> list[tuple[str, ...]]:
        """Cells as text: adapter, methods, target, base, tuned, change, steps, trained numbers, seconds."""
        return [_cells(line) for line in self.adapters]

    def table(self) -> Table:
        """The lines on a terminal."""
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for i, name in enumerate(COLUMNS):
            table.add_column(name, justify="left" if i < 3 else "right", no_wrap=i != 1, overflow="fold")
        for line, cells in zip(self.adapters, self.rows(), strict=True):
            table.add_row(*(Text(clean(c), style="red" if line.error else "") for c in cells))
        return table

    def show(self, folder: Path, console: Console | None = None) -> None:
        """Print the table, what stopped, and where the reports are."""
        out = console or Console(highlight=False, emoji=False)
        out.print(self.table())
        for line in self.adapters:
            if line.error:
                out.print(Text(f"{line.name}: {clean(line.error)}", style="red"), soft_wrap=True)
        out.print(Text.assemble("Report: ", (str(folder / PAGE), "bold")), soft_wrap=True)

    def text(self, folder: Path) -> str:
        out = io.StringIO()
        self.show(folder, Console(file=out, width=110, color_system=None, emoji=False))
        return "\n".join(line.rstrip() for line in out.getvalue().splitlines())

    def html(self) -> str:
        """The table, for a notebook."""
        return notebook.table(self.table())

    def write_page(self, folder: Path) -> None:
        """`report.html` of the run: the table, each adapter's name leading to its own report."""
        lines = list(zip(self.adapters, self.rows(), strict=True))
        context = {"name": self.name, "columns": COLUMNS, "lines": lines, "page": PAGE}
        write_text(folder / PAGE, page.page("adapters.html", context))


PAGE = "report.html"
COLUMNS = ("adapter", "methods", "target", "base", "tuned", "change", "steps", "trained", "seconds")


def _cells(line: AdapterLine) -> tuple[str, ...]:
    if line.error is not None and line.steps is None:
        return (line.name, line.methods, "stopped", *[""] * (len(COLUMNS) - 3))
    unit = line.unit or "1"

    def score(x: float | None, sign: bool = False) -> str:
        return "" if x is None else words.score(x, unit, sign=sign)

    return (
        line.name,
        line.methods,
        words.metric_name(line.metric) if line.metric is not None else "",
        score(line.base),
        score(line.tuned),
        score(line.difference, True),
        words.count(line.steps),
        words.count(line.trainable),
        words.seconds(line.seconds),
    )
