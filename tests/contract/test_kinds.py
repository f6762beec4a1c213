"""A task of another's kind is served by what names that other, and by nothing else."""

from __future__ import annotations

from typing import ClassVar

import pytest

from tunewright.catalogue import load_method
from tunewright.contract import Task
from tunewright.contract.combining import check_conflicts, serves
from tunewright.errors import MethodError, RecipeError
from tunewright.measure.target import check_metric
from tunewright.tasks.text_classification import TextClassification


class Like(TextClassification):
    name: ClassVar[str] = "intents"
    kind: ClassVar[str] = "text-classification"


class Alone(TextClassification):
    name: ClassVar[str] = "intents"


class Cls(Task):
    name: ClassVar[str] = "text-classification-of-another-kind"


def named(*names: str):
    return [(name, load_method(name)()) for name in names]


@pytest.mark.parametrize("method", ["core-tuning", "bang", "unipt"])
def test_methods_that_name_the_built_in_task_serve_its_kind(method: str) -> None:
    assert serves(load_method(method), Like())
    check_conflicts(named(method), stage="main", task=Like())
    for task in (Alone(), Cls()):
        assert not serves(load_method(method), task)
        with pytest.raises(MethodError, match=f"'{method}' does not serve the task {task.name}") as caught:
            check_conflicts(named(method), stage="main", task=task)
        assert "it serves: " in str(caught.value) and "text-classification" in str(caught.value)


def test_a_kind_gives_no_more_than_its_own_methods() -> None:
    assert not serves(load_method("sstoken"), Like())
    assert serves(load_method("lora"), Like()) and serves(load_method("lora"), Alone())


def test_a_metric_that_names_the_built_in_task_reads_its_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    from tunewright.measure import target

    own = target.Metric("classified", tasks=("text-classification",))
    monkeypatch.setitem(target.METRICS, "own", own)
    assert check_metric("own", Like()) is own
    with pytest.raises(RecipeError, match="reads rows of text-classification, not of intents"):
        check_metric("own", Alone())
