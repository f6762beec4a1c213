"""A stage of which nothing will be made is refused before anything is measured, with the counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.runs.making import inputs, makers, recipe
from tunewright.errors import DataError
from tunewright.planning.check import check_recipe
from tunewright.planning.plan import plan
from tunewright.runs.run import run
from tunewright.runs.work import Work

__all__ = ["inputs", "makers"]

SHORT = "non-instructional-fine-tuning"


def texts(inputs: Path, *some: str) -> str:
    """A file of texts beside the inputs."""
    (inputs / "texts.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in some), encoding="utf-8")
    return "texts.jsonl"


@pytest.mark.parametrize(
    ("synthesize", "says"),
    [
        ([SHORT], "can make no row to train on of the 3 records of the stage 'main'; thrown away: 3: too short"),
        ([{"nothing": {"asked": False}}], "'nothing' can make no row .* thrown away: 3: as it should be"),
        (["related-pairs"], "thrown away: 3: no other document is related to it"),
        (["searchinstruct"], "of 3 rows none is a question"),
    ],
)
def test_check_plan_and_run_refuse_what_will_make_nothing(
    inputs: Path, monkeypatch: pytest.MonkeyPatch, synthesize: list[Any], says: str
) -> None:
    monkeypatch.setattr(Work, "_measure_base", lambda *given: pytest.fail("nothing is measured"))
    train = [{"path": texts(inputs, "one two", "three four", "five six"), "format": "text"}]
    file = recipe(inputs, "none", data__synthesize=synthesize, data__train=train)
    found = check_recipe(file)
    assert not found.ok and found.code == DataError.code
    for step in (lambda: plan(file, quiet=True), lambda: run(file, inputs / "none", quiet=True)):
        with pytest.raises(DataError, match=says) as e:
            step()
    assert str(e.value) in found.report.refusals
    assert not (inputs / "none" / "made").exists()


def test_the_error_names_the_place_and_what_to_give_instead(inputs: Path) -> None:
    train = [{"path": texts(inputs, "one two"), "format": "text"}]
    with pytest.raises(DataError) as e:
        plan(recipe(inputs, "none", data__synthesize=[SHORT], data__train=train), quiet=True)
    assert e.value.where == "stages.main.data.synthesize" and f"`tunewright methods {SHORT}`" in (e.value.remedy or "")


def test_one_long_text_is_enough_and_a_chain_is_followed_to_its_end(inputs: Path) -> None:
    long = " ".join(f"word{i}" for i in range(30))
    data: dict[str, Any] = {
        "data__train": [{"path": texts(inputs, "one two", long), "format": "text"}],
        "data__max_length": 256,
    }
    assert check_recipe(recipe(inputs, "some", data__synthesize=[SHORT], **data)).ok
    second = [{SHORT: {"model": None}}, {"nothing": {"asked": False}}]
    found = check_recipe(recipe(inputs, "chain", data__synthesize=second, **data))
    assert any("'nothing' can make no row to train on of the 2 records" in text for text in found.report.refusals)


def test_nothing_is_foreseen_where_a_model_is_asked(inputs: Path) -> None:
    assert check_recipe(recipe(inputs, "asked", data__synthesize=["nothing"])).ok
