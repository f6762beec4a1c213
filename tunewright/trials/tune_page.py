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
    anew = f", others for each of {result.seeds} seeds" if result.seeds > 1 else ""
    of = f", {result.rows:,} held-out rows{anew}" if result.rows else ""
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


def _stays(result: TuneFigures) -> str:
    """Why the recipe's own values are not changed: they are the best, or others score as they do."""
    others = [t.score for t in result.tried if t != result.own and t.score is not None]
    equal = sum(s == result.own.score for s in others)
    if others and equal == len(others):
        return (
            f"All {len(others) + 1} settings score alike: these rows tell none from another, and nothing is changed. "
            "More rows or a longer run may tell, or a finer metric (measurement.metric: loss)."
        )
    if equal:
        some = "one other setting is" if equal == 1 else f"{equal} others are"
        return f"Nothing is better than the recipe's own values, and {some} as good: nothing is to be changed."
    return "The recipe's own values are the best of these: nothing is to be changed."


def _verdict(result: TuneFigures) -> list[str]:
    said = []
    if result.stopped is not None:
        said.append(f"Stopped: {result.stopped}; the same command with more goes on from here.")
    if result.best is None:
        error = next((t.error for t in result.tried if t.error), None)
        return [*said, f"No run finished: {error}" if error else "No run finished."]
    if not result.changed:
        return [*said, _stays(result)]
    if result.best.score is not None and result.own.score is not None:
        gain = f"{score(result.best.score, result)} instead of {score(result.own.score, result)}"
        said.append(f"The best: {gain}. It was chosen by these rows, which flatters it a little.")
        said += _doubt(result)
    if result.written is not None:
        said.append(f"Written: {result.written}. Next: tunewright run {result.written}")
    return said
