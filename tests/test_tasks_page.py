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
    ("unconditional-image-generation", "reinit-top", "the class that draws this model's weights is not known"),
    ("reinforcement-learning", "pela", "no plain linear layer"),
    ("reinforcement-learning", "lora", ""),
]


@pytest.mark.parametrize(("name", "method", "reason"), PAIRS)
def test_a_check_says_the_same(name: str, method: str, reason: str) -> None:
    said = tasks_page._refusals(get_task(name), tasks_page._training_methods()).get(method, "")
    assert (reason in said) if reason else not said
    methods: list[Any] = ["full", method] if method in ("asft", "core-tuning") else [method]
    case = TaskCase(name, example_of(name))
    errors = check_recipe(case.recipe(methods=methods)).report.errors
    assert bool(errors) == bool(reason), errors
    assert not reason or method in str(errors[0])


def test_every_task_has_a_section_with_its_rows_and_metrics() -> None:
    page = tasks_page.tasks_page()
    for name in own_names():
        section = page.split(f"## {name}\n")[1].split("\n## ")[0]
        assert all(part in section for part in ("```json", "**Models**", "**Metrics**", "**Drift**", "**Methods**"))
    assert (
        "`span_f1`" in page.split("## token-classification\n")[1]
        and "`span_f1`" not in page.split("## fill-mask\n")[1].split("## image")[0]
    )


@pytest.mark.parametrize("name", ["audio-classification", "image-feature-extraction"])
def test_what_cannot_be_widened_is_refused_in_words(name: str) -> None:
    """A body of convolutions before the blocks, and a pooler that the model's own class would add."""
    methods = tasks_page._training_methods()
    assert tasks_page._cannot(methods["bert2bert"], example_of(name).model)


@pytest.mark.parametrize("name", ["unconditional-image-generation", "time-series-forecasting"])
def test_no_metric_of_targets_is_said_of_tasks_that_have_none(name: str) -> None:
    assert (
        "mean_token_accuracy" not in tasks_page._section(get_task(name), {}, 1).split("**Metrics**")[1].split("\n")[0]
    )
    with pytest.raises(RecipeError, match="none that are right or wrong"):
        check_metric("mean_token_accuracy", get_task(name))


@pytest.mark.parametrize("name", ["text2text-generation", "text-classification", "token-classification"])
def test_metrics_of_pairs_are_refused_where_rows_have_one_answer(name: str) -> None:
    with pytest.raises(RecipeError, match="compares two answers to a prompt"):
        check_metric("pair_accuracy", get_task(name))
