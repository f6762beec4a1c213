"""What `tunewright tune` found, on the terminal."""

from __future__ import annotations

import math

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tunewright.report import words
from tunewright.report.terminal_cells import clean
from tunewright.trials.tuned import Tried, TuneFigures


def show(result: TuneFigures, console: Console | None = None) -> None:
    """Print every setting that was tried, the best marked, and what to do next."""
    out = console or Console(highlight=False, emoji=False)
    name = words.metric_name(result.metric) or "target"
    of = f", {result.rows:,} held-out rows" if result.rows else ""
    out.print(Text(f"Tried on held-out training rows ({name}{of})", style="bold"))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for head in ("learning rate", "length", "batch", "steps", name, "time", ""):
        table.add_column(head, justify="left" if not head else "right")
    for tried in sorted(result.tried, key=lambda t: (t.learning_rate, sorted(t.budget.items()), t.batch_tokens)):
        table.add_row(*_cells(tried, result), style="bold" if tried == result.best else None)
    out.print(table)
    for line in _verdict(result):
        out.print(Text(clean(line)), soft_wrap=True)


def _cells(tried: Tried, result: TuneFigures) -> list[str]:
    marks = [m for m, on in (("best", tried == result.best), ("as written", tried == result.own)) if on]
    return [
        f"{tried.learning_rate:g}",
        ", ".join(f"{v:g} {k}" for k, v in tried.budget.items()),
        f"{tried.batch_tokens:,}",
        "" if tried.steps is None else f"{tried.steps:,}",
        "failed" if tried.score is None else score(tried.score, result),
        words.seconds(tried.seconds),
        ", ".join(marks),
    ]


def score(value: float, result: TuneFigures) -> str:
    """A score in its unit."""
    return f"{100 * value:.1f} %" if result.unit == "fraction" else f"{value:.3f}"


FEW_ROWS = 100
"""Held-out rows below which chance alone may choose the winner."""


def _doubt(result: TuneFigures) -> list[str]:
    """How far chance moves a share of few rows: its standard error at the best score."""
    if result.unit != "fraction" or not result.rows or result.rows >= FEW_ROWS:
        return []
    best = result.best.score if result.best is not None and result.best.score is not None else 0.5
    error = 100 * math.sqrt(max(best * (1 - best), 1 / result.rows) / result.rows)
    return [
        f"Only {result.rows} rows judged: a score is right to about {error:.0f} points, so that chance may have chosen "
        "(--seeds 3 holds out other rows each time)."
    ]


def _verdict(result: TuneFigures) -> list[str]:
    said = []
    if result.stopped is not None:
        said.append(f"Stopped: {result.stopped}; the same command with more goes on from here.")
    if result.best is None:
        error = next((t.error for t in result.tried if t.error), None)
        return [*said, f"No run finished: {error}" if error else "No run finished."]
    if not result.changed:
        return [*said, "The recipe's own values are the best of these: nothing is to be changed."]
    if result.best.score is not None and result.own.score is not None:
        gain = f"{score(result.best.score, result)} instead of {score(result.own.score, result)}"
        said.append(f"The best: {gain}. It was chosen by these rows, which flatters it a little.")
        said += _doubt(result)
    if result.written is not None:
        said.append(f"Written: {result.written}. Next: tunewright run {result.written}")
    return said
