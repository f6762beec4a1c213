"""Which labels rows have: what is judged that no row teaches, and tasks that are measured on other classes."""

from __future__ import annotations

import json

import pytest

from tunewright.data.labels import shares_label, unlearnt
from tunewright.recipe import Recipe, Source
from tunewright.runs.sources import told_by_rows
from tunewright.tasks import get_task

TASK = get_task("text-classification")


def write(folder, name, labels):
    rows = [json.dumps({"text": f"row {i}", "label": label}) for i, label in enumerate(labels)]
    (folder / name).write_text("\n".join(rows) + "\n")
    return Source(path=name)


def test_a_boolean_teaches_the_class_of_its_name(tmp_path):
    train, judged = write(tmp_path, "a.jsonl", [True, "no"]), write(tmp_path, "b.jsonl", ["True", "maybe", True])
    assert unlearnt([train], [judged], tmp_path, TASK) == ["maybe"]


def test_whether_a_class_is_shared(tmp_path):
    source = write(tmp_path, "a.jsonl", [None, 3, "x"])
    assert shares_label([source], ["3"], tmp_path, TASK) and shares_label([source], ["x"], tmp_path, TASK)
    assert not shares_label([source], ["y"], tmp_path, TASK)
    assert shares_label([write(tmp_path, "b.jsonl", [None])], ["y"], tmp_path, TASK)


@pytest.mark.parametrize(("order", "said"), [(("c", "d"), 0), (("d", "c"), 2)])
def test_tasks_that_are_measured_on_other_classes_are_told(order, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, labels in (("a", ["one", "two"]), ("b", ["three", "four"]), ("c", ["two"]), ("d", ["three"])):
        write(tmp_path, f"{name}.jsonl", labels)
    recipe = Recipe(
        model="nano-encoder",
        task="text-classification",
        data={"eval": [f"{n}.jsonl" for n in order]},
        tasks=["a.jsonl", "b.jsonl"],
        methods=["full"],
    )
    told = [t for t in told_by_rows(recipe, TASK) if "has a class that its training rows have" in t]
    assert len(told) == said and all("'a'" in t or "'b'" in t for t in told)
