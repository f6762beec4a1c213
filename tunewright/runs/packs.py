"""The packs that a recipe keeps: refused alike by a check, a plan and a run, and put to the model as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tunewright.contract.task import EncodeOptions, Task
from tunewright.errors import RecipeError
from tunewright.measure.asking import Questions, check_answers, questions
from tunewright.measure.checkers import length, repetition
from tunewright.measure.intervals import SHARE, Bounds, bootstrap_mean, discordant, mcnemar, paired_difference
from tunewright.measure.pack import FILE, Pack, is_pack, load_pack, shipped
from tunewright.measure.rows import PairedRow, RowResult, pair
from tunewright.measure.target import difference, summary
from tunewright.recipe import Recipe
from tunewright.recipe.naming import PACK
from tunewright.report.answer import Answer
from tunewright.report.measured import Measured
from tunewright.report.packed import PackFigure
from tunewright.tasks import get_task

METRIC = "accuracy"
"""What the share of right answers is called."""
SHOWN = 12
"""Answers of a pack in a report; all are in rows.jsonl."""
PHASE = "packs answered"
"""What a report calls the time of it."""


def packs_of(recipe: Recipe) -> dict[str, Pack]:
    """The packs of `keep`, by what each is called. DataError where one cannot be read."""
    return {
        name: load_pack(k.data, recipe.base, name=name, limit=k.limit, where=f"keep.{i}.data")
        for i, (k, name) in enumerate(zip(recipe.keep, recipe.kept_names(), strict=True))
        if is_pack(k.data)
    }


def check(recipe: Recipe) -> None:
    """RecipeError for a pack of a task whose models do not answer, and for one that is named as a text is."""
    task = get_task(recipe.task)
    for i, kept in enumerate(recipe.keep):
        where = f"keep.{i}.data"
        if is_pack(kept.data):
            check_answers(task, kept.data, where)
            continue
        place = recipe.base / kept.data
        if (place / FILE).is_file() or kept.data in shipped() and not place.exists():
            what = f"'{kept.data}' is a pack, and would be read as text"
            raise RecipeError(what, where=where, remedy=f"write {PACK}{kept.data}")
    packs_of(recipe)


def asked(recipe: Recipe, task: Task, tokenizer: Any, options: EncodeOptions) -> dict[str, Questions]:
    """The questions of each pack, as the recipe's model reads them."""
    return {name: questions(pack, task, tokenizer, options) for name, pack in packs_of(recipe).items()}


def figure(pack: Pack, before: Sequence[RowResult], after: Sequence[RowResult]) -> PackFigure:
    """A pack's figures: right answers of all rows and of each group, and how long and repetitive answers are."""
    right = discordant([r.score for r in before], [r.score for r in after])
    groups = list(dict.fromkeys(r.source for r in before))
    return PackFigure(
        **_shares(pack.name, before, after),
        floor=pack.info.floor,
        right=right,
        mcnemar=mcnemar(*right),
        parts=[
            Measured(**_shares(group.removeprefix(f"{pack.name}/"), *_of(group, before, after)))
            for group in groups
            if len(groups) > 1
        ],
        answers=[
            _told("answer_length", length, "words", None, pack.name, before, after),
            _told("repetition", repetition, "fraction", SHARE, pack.name, before, after),
        ],
        shown=[Answer.of(row) for row in changed_first(pair(before, after))[:SHOWN]],
    )


def changed_first(rows: Sequence[PairedRow]) -> list[PairedRow]:
    """Rows in their order, broken ones first, then mended ones."""
    return sorted(rows, key=lambda r: (r.base_score == r.tuned_score, r.tuned_score))


def _of(group: str, *sides: Sequence[RowResult]) -> list[list[RowResult]]:
    return [[r for r in side if r.source == group] for side in sides]


def _shares(name: str, before: Sequence[RowResult], after: Sequence[RowResult]) -> dict[str, Any]:
    return {
        "name": name,
        "metric": METRIC,
        "before": summary(before, METRIC),
        "after": summary(after, METRIC),
        "difference": difference(before, after, METRIC),
        "n": len(before),
    }


def _told(
    metric: str,
    of: Callable[[str], float],
    unit: str,
    bounds: Bounds | None,
    name: str,
    before: Sequence[RowResult],
    after: Sequence[RowResult],
) -> Measured:
    values = [[of(r.answer) for r in side] for side in (before, after)]
    return Measured(
        name=name,
        metric=metric,
        direction="lower",
        unit=unit,
        before=bootstrap_mean(values[0], bounds=bounds),
        after=bootstrap_mean(values[1], bounds=bounds),
        difference=paired_difference(values[0], values[1], bounds=bounds),
        n=len(before),
    )
