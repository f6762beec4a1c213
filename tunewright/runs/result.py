"""What a run gives back: its folder and its report, to be printed or shown in a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tunewright.measure.rows import RowResult
    from tunewright.report.schema import Report


@dataclass(repr=False)
class Result:
    """A finished run: its folder and what report.json holds. `print(result)` gives the table of the command line.

    `order`: a hash of the training rows as they are drawn (trials). `earlier`: an earlier process finished the run, and
    nothing was done now. `rows`: what each evaluated row gave of the base and of the tuned model, where the target is
    their mean.
    """

    folder: Path
    report: Report
    order: str | None = None
    earlier: bool = False
    rows: tuple[Sequence[RowResult], Sequence[RowResult]] | None = None

    def __str__(self) -> str:
        from tunewright.report import terminal

        return terminal.text(self.report, self.folder).rstrip("\n")

    def __repr__(self) -> str:
        return f"<Result of {self.folder}: {headline(self.report)}>"

    def _repr_html_(self) -> str:
        from tunewright.report import notebook, terminal

        return notebook.table(terminal.layout(self.report)) + notebook.framed(
            self.folder / "report.html", "The whole report"
        )


def headline(report: Report) -> str:
    """The target before and after, in a few words."""
    from tunewright.report import summary, words

    line = next((x for x in summary.lines(report) if x.kind == "target"), None)
    if line is None:
        return report.run.status
    target, beside = report.target, ""
    if target is not None and (probe := target.linear_probe) is not None and probe.before:
        of = words.of_metric(probe.metric, target.metric)
        beside = f" (linear probe of the base{of}: {words.score(probe.before.value, probe.unit)})"
    return f"{line.name} {line.before} -> {line.after}{beside}"
