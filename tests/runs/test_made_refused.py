"""Makers of rows before a run, and what of them is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests import classifying, small
from tests.runs.making import inputs, makers, recipe, told
from tunewright.errors import DataError, MethodError
from tunewright.planning.check import check_recipe
from tunewright.planning.plan import plan
from tunewright.recipe import Recipe
from tunewright.runs.assemble import assemble
from tunewright.runs.run import run
from tunewright.training.writing import LocalWriter

__all__ = ["inputs", "makers"]


def test_a_plan_says_what_will_be_made_and_makes_nothing(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalWriter, "_write", lambda *given: pytest.fail("a plan generates nothing"))
    changes: dict[str, Any] = {"data__synthesize": [{"continues": {"count": 3}}], "data__select": ["length"]}
    found = plan(recipe(inputs, **changes), quiet=True)
    (note,) = [n for n in found.notes if "will make" in n]
    assert any("length will choose among what was made when it begins; rows" in n for n in found.notes)
    assert "continues will make up to 120 records of 40 (thrown ones not counted) when it begins, asking the" in note


@pytest.mark.parametrize(
    ("synthesize", "says"),
    [
        (["exact-answer"], "judges what is made, and nothing makes any"),
        (["s3ft"], "asks a judge which answers are right"),
        (["continues", "exact-answer"], "asks no judge"),
        (["grpo"], "makes no records and judges none"),
        ([{"continues": {"model": "big"}}], "the recipe names none"),
        ([{"continues": {"model": "stages.none"}}], "is no earlier stage"),
        (["self-training"], "does not serve the task text-generation"),
    ],
)
def test_check_plan_and_run_refuse_the_same(inputs: Path, synthesize: list[Any], says: str) -> None:
    file = recipe(inputs, "bad", data__synthesize=synthesize)
    found = check_recipe(file)
    assert not found.ok and sum(says in text for text in found.report.refusals) == 1
    for step in (lambda: plan(file, quiet=True), lambda: run(file, inputs / "bad", quiet=True)):
        with pytest.raises(MethodError, match=says):
            step()
    assert not (inputs / "bad").exists()


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("list", "gave dict"),
        ("stranger", "a record that is made of none"),
        ("json", "a record that is no JSON"),
        ("empty", "an empty record and kept it"),
    ],
)
def test_a_maker_that_gives_nonsense_is_named(inputs: Path, how: str, says: str) -> None:
    with pytest.raises(MethodError, match=says):
        run(recipe(inputs, f"wrong-{how}", data__synthesize=[{"wrong": {"how": how}}]), inputs / how, quiet=True)


def test_nothing_kept_is_an_error_that_names_the_reasons_and_the_file(inputs: Path) -> None:
    with pytest.raises(DataError, match="40: as it should be") as e:
        run(recipe(inputs, "none", data__synthesize=["nothing"]), inputs / "none", quiet=True)
    assert str(inputs / "none" / "made" / "main.jsonl") in str(e.value)
    assert len((inputs / "none" / "made" / "main.jsonl").read_text().splitlines()) == 41


def test_what_can_be_no_row_is_thrown_away_with_the_reason(inputs: Path) -> None:
    run(recipe(inputs, "badrow", data__synthesize=["bad-row"]), inputs / "badrow", quiet=True)
    head, lines, rows = told(inputs / "badrow")
    assert rows == [{"text": "card lost"}] and head["thrown"] == {"it can be no row": 1}
    assert "completion: the text is empty" in lines[0]["thrown"]


def test_labels_are_made_by_the_stage_before_and_a_new_head_makes_none(tmp_path: Path) -> None:
    classifying.write_inputs(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    (tmp_path / "pool.jsonl").write_text("\n".join(json.dumps({"text": r["text"]}) for r in rows))
    pool = {"train": "pool.jsonl", "synthesize": ["self-training"], "select": [{"threshold": {"least": 0.34}}]}
    stages: list[dict[str, Any]] = [
        {"name": "teacher", "methods": ["full"], "budget": {"steps": 8}},
        {"name": "pool", "start": "base", "data": pool, "methods": ["full"], "budget": {"steps": 2}},
        {"name": "task", "methods": ["full"], "budget": {"steps": 2}},
    ]
    file = small.write_recipe(tmp_path, "r", **classifying.recipe(stages=stages))
    found = check_recipe(file)
    assert found.ok, str(found)
    plan(file, quiet=True)
    run(file, tmp_path / "out", quiet=True)
    head, lines, made = told(tmp_path / "out", "pool")
    assert head["kept"] == 36 and all(r["label"] in classifying.LABELS and 0 < r["confidence"] <= 1 for r in made)
    assert head["flops"] > 0 and "writers" in head and not head["writers"]
    right = sum(m["label"] == r["label"] for m, r in zip(made, rows, strict=True))
    assert right > 24, f"a teacher that has learnt labels {right} of 36 rightly"
    stages[1]["data"]["synthesize"] = [{"self-training": {"model": "base"}}]
    file = small.write_recipe(tmp_path, "new", **classifying.recipe(stages=stages))
    for step in (lambda: plan(file, quiet=True), lambda: run(file, tmp_path / "new", quiet=True)):
        with pytest.raises(MethodError, match="head of the base is new"):
            step()


def test_a_stage_may_make_none_of_what_the_recipe_makes(inputs: Path) -> None:
    methods = [{"lora": {"rank": 4}}]
    stages: list[dict[str, Any]] = [
        {"name": n, "methods": methods, "budget": {"steps": 1}} for n in ("first", "second")
    ]
    stages[1]["data"] = {"synthesize": []}
    session = assemble(Recipe.load(recipe(inputs, data__synthesize=["continues"], stages=stages)))
    assert [part.making is not None for part in session.stages] == [True, False]
