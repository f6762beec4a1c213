"""A recipe's data, checked row by row with the model's tokenizer; no weights are loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from tunewright.contract.records import Problem
from tunewright.contract.task import EncodeOptions
from tunewright.data.check import CheckReport, Notice, check, write_clean
from tunewright.data.dataset import labels_of
from tunewright.loading.load import _readers
from tunewright.loading.locate import locate
from tunewright.recipe import Source
from tunewright.recipe.given import RecipeLike, given
from tunewright.report import notebook
from tunewright.runs.session import located
from tunewright.tasks import get_task

SHOWN = 20
"""Rows named for one notice; JSON has them all."""


@dataclass(repr=False)
class CheckResult:
    """What was found in a recipe's data. `written`: files of the clean copy, where one was asked for."""

    report: CheckReport
    written: list[Path] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether a run would take the data."""
        return self.report.ok

    @property
    def bad_rows(self) -> list[Problem]:
        """Rows that cannot be used: `where` (file:line) and `reason`."""
        return self.report.problems

    @property
    def notices(self) -> list[Notice]:
        """What can be used and should be looked at: duplicates, evaluation rows that are trained on ..."""
        return self.report.notices

    def to_json(self) -> dict[str, Any]:
        """The result as JSON values."""
        return {**self.report.to_json(), "written": [str(f) for f in self.written]}

    def __str__(self) -> str:
        return notebook.plain(lambda console: show(self.report, self.written, console))

    def __repr__(self) -> str:
        report = self.report
        return (
            f"<CheckResult: {'ok' if self.ok else 'not ok'}, {len(report.problems)} bad rows, "
            f"{len(report.refusals)} refusals, {len(report.notices)} notices>"
        )

    def _repr_html_(self) -> str:
        return notebook.recorded(lambda console: show(self.report, self.written, console))


def check_recipe(recipe: RecipeLike, *, sets: Sequence[str] = (), clean: Path | None = None) -> CheckResult:
    """Check a recipe's data. `clean`: write a clean copy there. RecipeError and ModelError where it cannot begin."""
    recipe = given(recipe, sets)
    task, data = get_task(recipe.task), recipe.data
    groups: dict[str, list[Source]] = {"train": data.train, "eval": data.eval or []}
    if isinstance(data.validation, list):
        groups["validation"] = data.validation
    tokenizer, processor = _readers(locate(located(recipe.model, recipe.base).name, recipe.model.revision), task)
    labels = tuple(data.labels) if data.labels else None
    if labels is None and task.labelled:
        labels = labels_of([*groups["train"], *groups["eval"]], recipe.base)
    report = check(groups, task, tokenizer, _options(data, labels, processor), base=recipe.base)
    return CheckResult(report, write_clean(report, groups, clean, base=recipe.base) if clean is not None else [])


def _options(data: Any, labels: tuple[str, ...] | None, processor: Any) -> EncodeOptions:
    image = None
    if processor is not None:
        from tunewright.tasks.image_classification import image_options

        image = image_options(processor)
    same = {n: getattr(data, n) for n in ("max_length", "truncation", "template", "system", "chat")}
    return EncodeOptions(**same, labels=labels, image=image)


def show(report: CheckReport, files: Sequence[Path] = (), console: Console | None = None) -> None:
    """Print a report: sources with their counts, every bad row, notices with their rows, and a verdict."""
    out = console or Console(highlight=False, soft_wrap=True, emoji=False)
    for s in report.sources:
        shapes = ", ".join(f"{n} {shape}" for shape, n in s.shapes.items()) or "no rows that can be read"
        out.print(
            f"[bold]{s.role}[/] {escape(s.name)}: {shapes}; {s.counts['tokens']:,} tokens, "
            f"{s.counts['trained_tokens']:,} trained"
        )
    for p in report.problems:
        out.print(f"[red]bad row[/] {escape(str(p))}")
    for n in report.notices:
        rows = [f"{w} (as {n.pairs[i]})" if n.pairs else w for i, w in enumerate(n.where[:SHOWN])]
        more = f" and {len(n.where) - SHOWN} more" if len(n.where) > SHOWN else ""
        out.print(
            f"[yellow]{n.kind}[/] {len(n.where)}: {escape(n.reason)}\n  {escape(', '.join(rows))}{more}\n  -> "
            f"{escape(n.remedy)}"
        )
    for text in report.refusals:
        out.print(f"[red]refused[/] {escape(text)}")
    for f in files:
        out.print(f"written: {escape(str(f))}")
    out.print(
        "[green]ok: a run would take this data[/]"
        if report.ok
        else f"[red]{len(report.problems)} bad rows, {len(report.refusals)} refusals[/]"
    )
