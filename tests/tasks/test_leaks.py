"""A template that would tell the model what it is asked for is refused, row by row."""

from __future__ import annotations

import pytest

from tests import tiny
from tunewright.contract.records import Record, RowProblem
from tunewright.contract.task import EncodeOptions
from tunewright.errors import RecipeError
from tunewright.recipe import Recipe
from tunewright.tasks import get_task
from tunewright.tasks.base import named_in

PAIR = {"prompt": "a", "completion": "b", "label": "c"}
CHOICE = {"text": "a", "label": "card arrival"}
PREFERENCE = {"prompt": "a", "chosen": "b", "rejected": "c", "label": "d"}


def encode(task, row, template, **options):
    tokenizer = tiny.tokenizer(encoder=task != "text-generation")
    return get_task(task).encode(Record(row, id="r"), tokenizer, EncodeOptions(template=template, **options))


@pytest.mark.parametrize(
    ("task", "row", "template", "named"),
    [
        ("text-generation", PAIR, "{completion[0]} {prompt}", "completion"),
        ("text-generation", PAIR, "{prompt} {completion!r} {completion}", "completion"),
        ("text-generation", CHOICE, "{label}: {text}", "label"),
        ("text-generation", PREFERENCE, "{rejected} {prompt}", "rejected"),
        ("text-classification", CHOICE, "{label}: {text}", "label"),
    ],
)
def test_a_template_may_not_tell_the_answer(task, row, template, named):
    with pytest.raises(RowProblem) as caught:
        encode(task, row, template, labels=("card arrival", "other"))
    assert caught.value.field == "template" and f"{{{named}}}" in caught.value.reason


@pytest.mark.parametrize(
    ("row", "template"),
    [(PAIR, "[{label}] {prompt}"), (PAIR, "{prompt}: {completion}"), (PREFERENCE, "[{label}] {prompt}"),
     ({"text": "a", "label": None, "topic": "t"} | {"label": "card arrival"}, "{topic} {text}")],
)  # fmt: skip
def test_other_columns_may_be_shown(row, template):
    assert encode("text-generation", row, template).input_ids


def test_a_template_of_the_answer_alone_is_refused():
    data = {"train": "a.jsonl", "template": "Question: {completion}"}
    with pytest.raises(RecipeError, match="does not say where the row's text goes"):
        Recipe(model="nano", task="text-generation", data=data, methods=["lora"])


def test_named_columns():
    assert named_in("{a} {b[0]} {c.d!r:>3} {{e}} {") == frozenset()
    assert named_in("{a} {b[0]} {c.d!r:>3} {{e}}") == {"a", "b", "c"}
