"""Tasks told in words: both forms of file, what each format shows, tasks held out whole, rows that are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests import small
from tunewright.data.read import read_all
from tunewright.data.task_file import fold_of
from tunewright.errors import DataError, RecipeError
from tunewright.recipe import Recipe
from tunewright.recipe.source import Source
from tunewright.runs.run import run

EXAMPLES: dict[str, Any] = {
    "Positive Examples": [
        {"input": "a b", "output": "b a", "explanation": "turned round"},
        {"input": "c", "output": "c"},
    ]
    + [{"input": "third", "output": "never shown"}],
    "Negative Examples": [{"input": "d e", "output": "d e", "reason": "not turned"}],
}
SECOND: dict[str, Any] = {
    "Categories": ["Text Editing"],
    "Definition": ["Turn the words round.", "Keep them all."],
    **EXAMPLES,
    "Instances": [
        {"id": "1", "input": "f g", "output": ["g f", "g, f"]},
        {"input": "no output"},
        {"input": "h", "output": ["h"]},
    ],
}
FIRST: dict[str, Any] = {
    "Title": "Turning round",
    "Prompt": "Turn it.",
    "Definition": "Turn the words round.",
    "Things to Avoid": "Do not drop words.",
    "Emphasis & Caution": "-",
    "Examples": EXAMPLES,
    "Instances": [{"input": "f g", "output": "g f"}],
}


def written(folder: Path, indent: int | None = 4, **tasks: Any) -> Path:
    folder.mkdir(exist_ok=True)
    for name, task in tasks.items():
        (folder / f"{name}.json").write_text(json.dumps(task, indent=indent))
    return folder


def prompts(folder: Path, form: str | None, task: str) -> list[str]:
    return [r["prompt"] for r in read_all(Source(path=f"{task}.json", format=form), folder).records]


def test_each_format_shows_the_fields_that_the_paper_compares(tmp_path: Path) -> None:
    written(tmp_path, one=FIRST)
    end = "Input: f g\n\nOutput:\n"
    head = "Title: Turning round\n\nTask: Turn it.\n\n"
    right = "Positive example 1\nInput: a b\nOutput: b a\nReason: turned round\n\n"
    right += "Positive example 2\nInput: c\nOutput: c\n\n"
    wrong = "Negative example 1\nInput: d e\nOutput: d e\nReason: not turned\n\n"
    definition, avoid = "Definition: Turn the words round.\n\n", "Things to avoid: Do not drop words.\n\n"
    assert prompts(tmp_path, None, "one") == [head + definition + avoid + wrong + right + end]
    assert prompts(tmp_path, "natural-instructions-definition", "one") == [head + definition + end]
    assert prompts(tmp_path, "natural-instructions-examples", "one") == [head + right + end]
    assert prompts(tmp_path, "natural-instructions-input", "one") == [end]


@pytest.mark.parametrize("indent", [None, 4])
def test_the_second_form_is_read_and_an_instance_that_is_none_is_named(tmp_path: Path, indent: int | None) -> None:
    written(tmp_path, indent, two=SECOND)
    found = read_all(Source(path="two.json"), tmp_path)
    assert [(r["completion"], r["task"], r["category"]) for r in found.records] == [
        ("g f", "two", "Text Editing"),
        ("h", "two", "Text Editing"),
    ]
    assert "Definition: Turn the words round.\nKeep them all.\n\n" in found.records[0]["prompt"]
    assert found.records[0]["outputs"] == ["g f", "g, f"] and found.records[0].id == "two.json:1"
    assert [(p.where, p.field) for p in found.problems] == [("two.json:2", "Instances")]


def test_folds_hold_tasks_out_whole(tmp_path: Path) -> None:
    names = [f"task{i:03}" for i in range(30)]
    written(tmp_path, **{n: FIRST for n in names})
    held = {r["task"] for r in read_all(Source(path="../" + tmp_path.name, where={"fold": [0, 1]}), tmp_path).records}
    seen = {
        r["task"]
        for r in read_all(Source(path="../" + tmp_path.name, where={"fold": [*range(2, 10)]}), tmp_path).records
    }
    assert held | seen == set(names) and not held & seen and 2 <= len(held) <= 10
    assert held == {n for n in names if fold_of(n) < 2} and fold_of("task000") == fold_of("task000")


def test_what_is_no_task_is_still_json_lines_or_refused(tmp_path: Path) -> None:
    row = {"prompt": "p", "completion": 'about "Instances"'}
    (tmp_path / "rows.json").write_text(f"{json.dumps(row)}\n{json.dumps(row)}")
    assert len(read_all(Source(path="rows.json"), tmp_path).records) == 2
    written(tmp_path, empty={**SECOND, "Instances": []})
    with pytest.raises(DataError, match="no rows"):
        read_all(Source(path="empty.json"), tmp_path)
    written(tmp_path, wrong={**SECOND, "Instances": {"input": "a"}})
    with pytest.raises(DataError, match="a list of Instances"):
        read_all(Source(path="wrong.json"), tmp_path)


def test_a_format_that_there_is_not_is_said_once_with_the_recipes_line(tmp_path: Path) -> None:
    small.write_inputs(tmp_path, train=2)
    written(tmp_path, one=FIRST)
    file = small.write_recipe(tmp_path, data__train=[{"path": "one.json", "format": "natural-instruction"}])
    with pytest.raises(RecipeError, match="no row shape is called 'natural-instruction'") as error:
        Recipe.load(file)
    path, _, line = str(error.value.where).rpartition(":")
    assert Path(path).name == file.name and "natural-instruction" in file.read_text().splitlines()[int(line) - 1]
    assert "natural-instructions" in str(error.value.remedy)
    own = {"name": "own", "data": {"train": [{"path": "one.json", "format": "nothing"}]}, "methods": ["full"]}
    with pytest.raises(RecipeError, match="called 'nothing'"):
        Recipe.load(small.write_recipe(tmp_path, stages=[{**own, "budget": {"steps": 1}}]))
    for fine in ("natural-instructions-input", "messages"):  # a shape, and a column of one
        Recipe.load(small.write_recipe(tmp_path, data__train=[{"path": "one.json", "format": fine}]))


def test_a_run_learns_seen_tasks_and_is_measured_on_others(tmp_path: Path) -> None:
    small.write_inputs(tmp_path, train=2)
    names = [f"task{i:03}" for i in range(12)]
    said = {n: [{"input": f"{w} {n[-2:]}", "output": [w]} for w in ("card", "fee")] for n in names}
    written(tmp_path / "tasks", **{n: {**SECOND, "Instances": said[n]} for n in names})
    form = "natural-instructions-definition"
    held = [n for n in names if fold_of(n) < 3]
    data = {
        "train": [{"path": "tasks", "format": form, "where": {"fold": [*range(3, 10)]}}],
        "eval": [{"path": "tasks", "format": form, "where": {"task": held}}],
    }
    stage = [{"name": "main", "methods": [{"lora": {"rank": 2}}], "budget": {"steps": 1}}]
    changes = {"data__train": data["train"], "data__eval": data["eval"], "stages": stage}
    run(small.write_recipe(tmp_path, **changes, measurement__strengths=[1.0]), tmp_path / "out", quiet=True)
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["data"]["rows"] == 2 * (len(names) - len(held))
