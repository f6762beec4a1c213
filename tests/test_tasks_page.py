"""docs/tasks.md says of methods what a check says: what it refuses is refused, and what it does not is not."""

from __future__ import annotations

from typing import Any

import pytest

from tunewright.commands import tasks_page
from tunewright.conformance.task_case import TaskCase
from tunewright.conformance.task_examples import example_of
from tunewright.errors import RecipeError
from tunewright.measure.target import check_metric
from tunewright.planning.check import check_recipe
from tunewright.tasks import get_task, own_names

PAIRS = [
    ("text2text-generation", "loreft", "reads two texts"),
    ("text2text-generation", "dpo", "serves text-generation"),
    ("reward-modeling", "asft", "trains likelihoods"),
    ("fill-mask", "unipt", "serves text-classification, image-classification"),
    ("image-text-to-text", "grpo", "serves text-generation"),
    ("image-text-to-text", "dora", ""),
    ("text2text-generation", "asft", ""),
    ("token-classification", "lofit", ""),
    ("text-classification", "core-tuning", ""),
]


@pytest.mark.parametrize(("name", "method", "reason"), PAIRS)
def test_a_check_says_the_same(name: str, method: str, reason: str) -> None:
    said = tasks_page._refusals(get_task(name), tasks_page._training_methods()).get(method, "")
    assert (reason in said) if reason else not said
    methods: list[Any] = ["full", method] if method in ("asft", "core-tuning") else [method]
    case = TaskCase(name, example_of(name))
    errors = check_recipe(case.recipe(methods=methods)).report.errors
    assert bool(errors) == bool(reason), errors
    assert not reason or f"'{method}'" in str(errors[0])


def test_every_task_has_a_section_with_its_rows_and_metrics() -> None:
    page = tasks_page.tasks_page()
    for name in own_names():
        section = page.split(f"## {name}\n")[1].split("\n## ")[0]
        assert all(part in section for part in ("```json", "**Models**", "**Metrics**", "**Drift**", "**Methods**"))
    assert (
        "`span_f1`" in page.split("## token-classification\n")[1]
        and "`span_f1`" not in page.split("## fill-mask\n")[1].split("## image")[0]
    )


@pytest.mark.parametrize("name", ["text2text-generation", "text-classification", "token-classification"])
def test_metrics_of_pairs_are_refused_where_rows_have_one_answer(name: str) -> None:
    with pytest.raises(RecipeError, match="compares two answers to a prompt"):
        check_metric("pair_accuracy", get_task(name))
