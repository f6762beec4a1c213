"""The verb `check`: a recipe's data, row by row, with the model's tokenizer; no weights are loaded."""

from __future__ import annotations

import json as json_module
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from tunewright.contract.task import EncodeOptions
from tunewright.data.check import CheckReport, check, write_clean
from tunewright.data.dataset import labels_of
from tunewright.loading.load import _readers
from tunewright.loading.locate import locate
from tunewright.recipe import Recipe, Source
from tunewright.runs.assemble import located
from tunewright.tasks import get_task

SHOWN = 20
"""Rows named for one notice; JSON has them all."""


def check_recipe(path: str | Path, sets: Sequence[str] = (), *, clean: Path | None = None, json: bool = False) -> bool:
    """Check a recipe's data and print what was found; True when a run would take it.

    `clean`: write a clean copy there.
    """
    recipe = Recipe.load(path, sets)
    task, data = get_task(recipe.task), recipe.data
    groups: dict[str, list[Source]] = {"train": data.train, "eval": data.eval or []}
    if isinstance(data.validation, list):
        groups["validation"] = data.validation
    tokenizer, processor = _readers(locate(located(recipe.model, recipe.base).name, recipe.model.revision), task)
    labels = tuple(data.labels) if data.labels else None
    if labels is None and task.labelled:
        labels = labels_of([*groups["train"], *groups["eval"]], recipe.base)
    report = check(groups, task, tokenizer, _options(data, labels, processor), base=recipe.base)
    files = write_clean(report, groups, clean, base=recipe.base) if clean is not None else []
    if json:
        print(json_module.dumps({**report.to_json(), "written": [str(f) for f in files]}, indent=2, ensure_ascii=False))
    else:
        show(report, files)
    return report.ok


def _options(data: Any, labels: tuple[str, ...] | None, processor: Any) -> EncodeOptions:
    image = None
    if processor is not None:
        from tunewright.tasks.image_classification import image_options

        image = image_options(processor)
    same = {n: getattr(data, n) for n in ("max_length", "truncation", "template", "system", "chat")}
    return EncodeOptions(**same, labels=labels, image=image)


def show(report: CheckReport, files: Sequence[Path] = ()) -> None:
    """Print a report: sources with their counts, every bad row, notices with their rows, and a verdict."""
    out = Console(highlight=False, soft_wrap=True, emoji=False)
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
