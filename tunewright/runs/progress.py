"""What a person sees while a run works: short lines, and a bar with loss, tokens a second and the time left."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tunewright.machine.pace import Pace, in_words
from tunewright.report.prompts import middle_cut, shown

Show = Callable[[dict[str, Any]], None]


def in_notebook() -> bool:
    """Whether a notebook's kernel shows what is printed."""
    if "IPython" not in sys.modules:
        return False
    from rich.console import Console

    return Console().is_jupyter


def say(text: str) -> None:
    """Print a line of progress on standard error; in a notebook, which paints that as an error, on standard output."""
    print(text, file=sys.stdout if in_notebook() else sys.stderr, flush=True)


def a_second(pace: float, counted: str) -> str:
    """A pace in words: "820 tokens/s"; below one in a second how long each takes, "2.5 s an image"."""
    if pace >= 9.95:
        return f"{pace:.0f} {counted}/s"
    if pace >= 1 or pace <= 0:
        return f"{pace:.1f} {counted}/s"
    one = {"tok": "token", "patches": "patch"}.get(counted, counted.removesuffix("s"))
    return f"{1 / pace:.2g} s {'an' if one[0] in 'aeiou' else 'a'} {one}"


class Screen:
    """`quiet` prints nothing but results; `json` prints one JSON record a line, on standard output.

    `counted`: what a second's work is counted in, in short: "tok" or "images".
    """

    def __init__(self, *, quiet: bool = False, json: bool = False):
        self.quiet, self.json, self.counted = quiet, json, "tok"

    def say(self, text: str, *, always: bool = False) -> None:
        if always or not (self.quiet or self.json):
            say(text)

    def warn(self, text: str) -> None:
        print(f"warning: {text}", file=sys.stderr, flush=True)

    def samples(self, answers: list[tuple[str, str, str]]) -> None:
        """A few answers of an evaluation while training."""
        for prompt, answer, reference in answers:
            asked = middle_cut(" ".join(shown(prompt).split()), 60)
            self.say(f"  {asked} -> {answer[:60]!r} (expected {reference[:60]!r})")

    @contextmanager
    def training(self, stage: str, plan: Any) -> Iterator[Show]:
        """Show a stage's steps."""
        if self.quiet:
            yield lambda record: None
        elif self.json:
            yield lambda record: print(json.dumps(record), flush=True)
        elif in_notebook() or sys.stderr.isatty():
            with self._bar(stage, plan) as show:
                yield show
        else:
            yield self._lines(stage, plan)

    @contextmanager
    def _bar(self, stage: str, plan: Any) -> Iterator[Show]:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[told]}"),
            TextColumn("{task.fields[pace]}"),
        )
        pace = Pace()
        bar = Progress(*columns, console=Console(stderr=True, force_jupyter=False), transient=True)
        task = bar.add_task(f"training '{stage}'", total=plan.steps, told="", pace=Shown(pace))

        def show(record: dict[str, Any]) -> None:
            if "loss" in record:
                pace.step(record["step"], plan.steps)
                bar.update(
                    task,
                    completed=record["step"],
                    told=f"loss {record['loss']:.3f}, {a_second(record['tokens_per_second'], self.counted)}",
                )

        if in_notebook():
            yield _redrawn(bar, show)
            return
        with bar:
            yield show

    def _lines(self, stage: str, plan: Any) -> Show:
        last, pace = [0.0], Pace()

        def show(record: dict[str, Any]) -> None:
            if "loss" not in record:
                return
            pace.step(record["step"], plan.steps)
            if time.monotonic() - last[0] < 10 and record["step"] < plan.steps:
                return
            last[0] = time.monotonic()
            left = f", {in_words(pace.left)}" if record["step"] < plan.steps else ""
            self.say(
                f"training '{stage}': step {record['step']} of {plan.steps}, loss {record['loss']:.3f}, "
                f"{a_second(record['tokens_per_second'], self.counted)}{left}"
            )

        return show


class Silent(Screen):
    """Says nothing at all: of a process beside the one that speaks for all."""

    def __init__(self) -> None:
        super().__init__(quiet=True)

    def say(self, text: str, *, always: bool = False) -> None:
        pass

    def warn(self, text: str) -> None:
        pass


class Named(Screen):
    """Lines and records of one adapter among others."""

    def __init__(self, name: str, screen: Screen):
        super().__init__(quiet=screen.quiet, json=screen.json)
        self.name = name

    def say(self, text: str, *, always: bool = False) -> None:
        super().say(f"{self.name}: {text}", always=always)

    def warn(self, text: str) -> None:
        super().warn(f"{self.name}: {text}")

    @contextmanager
    def training(self, stage: str, plan: Any) -> Iterator[Show]:
        """As lines, never as a bar: several train at once."""
        if self.json and not self.quiet:
            yield lambda record: print(json.dumps({"adapter": self.name, **record}), flush=True)
        else:
            yield (lambda record: None) if self.quiet else self._lines(stage, plan)


class Shown:
    """A pace as a bar's field, read anew each time that the bar is drawn: between steps too, however long they are."""

    def __init__(self, pace: Pace):
        self.pace = pace

    def __format__(self, spec: str) -> str:
        return in_words(self.pace.left)


def _redrawn(bar: Any, show: Show) -> Show:
    """`show`, with the bar drawn in one output of the notebook: at its first and last step, else twice a second."""
    from IPython.display import HTML, display

    from tunewright.report import notebook

    handle = display(HTML(notebook.table(bar.get_renderable())), display_id=True)
    last = [0.0]

    def drawn(record: dict[str, Any]) -> None:
        show(record)
        if bar.finished or time.monotonic() - last[0] >= 0.5:
            last[0] = time.monotonic()
            handle.update(HTML(notebook.table(bar.get_renderable())))

    return drawn
