"""What a recipe may not name, and what is not told: the lock on evaluation rows."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tunewright.agents.guard import WITHHELD, Guard, overlap
from tunewright.errors import DataError, RecipeError
from tunewright.runs import attempts

SECRET = "the card that was swallowed by the machine in Lisbon"


@pytest.fixture
def guard(tmp_path: Path) -> Guard:
    (tmp_path / "data" / "inner").mkdir(parents=True)
    (tmp_path / "locked").mkdir()
    (tmp_path / "work" / "runs" / "a").mkdir(parents=True)
    (tmp_path / "data" / "train.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    (tmp_path / "locked" / "test.jsonl").write_text(json.dumps({"prompt": SECRET, "completion": "lost"}) + "\n")
    (tmp_path / "work" / "runs" / "a" / "rows.jsonl").write_text("{}")
    return Guard([tmp_path / "data"], [tmp_path / "locked" / "test.jsonl"], tmp_path / "work")


def recipe(**changes: Any) -> str:
    tree: dict[str, Any] = {
        "model": "nano", "task": "text-generation", "data": {"train": "train.jsonl"}, "methods": ["lora"],
        "budget": {"steps": 4},
    } | changes  # fmt: skip
    return yaml.safe_dump(tree)


def test_files_are_named_from_their_folders_and_locked_ones_are_not(guard: Guard, tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "inner" / "more.csv").write_text("text,label\na,b\n")
    shutil.copy(tmp_path / "locked" / "test.jsonl", data / "inner" / "copy.jsonl")
    assert guard.names() == ["inner/more.csv", "train.jsonl"]


def test_the_locked_rows_are_put_in_and_paths_made_whole(guard: Guard, tmp_path: Path) -> None:
    made = yaml.safe_load(guard.recipe(recipe(), 4))
    assert made["data"] == {
        "train": str(tmp_path / "data" / "train.jsonl"),
        "eval": [str(tmp_path / "locked" / "test.jsonl")],
    }
    assert made["model"] == "nano" and made["methods"] == ["lora"]
    talk = "Read https://example.org first ...\nThen answer: ../ is one folder up."
    made = yaml.safe_load(guard.recipe(recipe(data={"train": "train.jsonl", "system": talk}, keep=["pack:facts"]), 4))
    assert made["data"]["system"] == talk and made["keep"] == ["pack:facts"]


def test_runs_and_locked_folders_inside_the_data_are_no_data(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for name in ("work/runs/a/out.jsonl", "held/test.jsonl", "train.jsonl"):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_text(json.dumps({"prompt": name, "completion": "b"}) + "\n")
    guard = Guard([data], [data / "held"], data / "work")
    assert guard.names() == ["train.jsonl"] and guard.recipe(recipe(), 4)
    for name, what in (("work/runs/a/out.jsonl", "not in the data folders"), ("held/test.jsonl", "evaluation rows")):
        with pytest.raises(RecipeError, match=what):
            guard.recipe(recipe(data={"train": name}), 4)


@pytest.mark.parametrize("key", ["train", "validation", "replay"])
def test_no_way_to_the_locked_file_is_open(key: str, guard: Guard, tmp_path: Path) -> None:
    data, locked = tmp_path / "data", tmp_path / "locked" / "test.jsonl"
    (data / "link.jsonl").symlink_to(locked)
    os.link(locked, data / "hard.jsonl")
    shutil.copy(locked, data / "inner" / "copy.jsonl")
    (data / "folder").symlink_to(tmp_path / "locked")
    (data / "deep").mkdir()
    (data / "deep" / "link").symlink_to(tmp_path / "locked")
    (data / "deep" / "loop").symlink_to(data / "deep")
    for name in (
        str(locked), "../locked/test.jsonl", "link.jsonl", "hard.jsonl", "inner/copy.jsonl", "inner", "folder",
        "folder/test.jsonl", "*.jsonl", "**/copy.jsonl", str(tmp_path / "data" / "inner" / "copy.jsonl"),
        f"file://{locked}", "~/x.jsonl", str(tmp_path / "work" / "runs" / "a" / "rows.jsonl"), "/etc/hostname",
        "https://example.org/x.jsonl", f"pack:{tmp_path / 'locked'}", "pack:inner", "deep",
        "train.jsonl,../locked/test.jsonl", "..", str(tmp_path) + "/." * 700 + "/locked/test.jsonl",
    ):  # fmt: skip
        for value in (name, [name], {"path": name}, {name: 0.5}):
            with pytest.raises(RecipeError):
                guard.recipe(recipe(data={"train": "train.jsonl", key: value}), None)


def test_other_parts_of_a_recipe_are_no_way_in_either(guard: Guard, tmp_path: Path) -> None:
    locked = str(tmp_path / "locked" / "test.jsonl")
    for changes in (
        {"keep": [locked]}, {"model": str(tmp_path / "locked")}, {"methods": [{"lora": {"target_modules": locked}}]},
        {"data": {"train": "train.jsonl", "eval": "train.jsonl"}}, {"test_time": ["tent"]},
        {"stages": [{"methods": ["lora"], "budget": {"steps": 1}, "data": {"eval": "train.jsonl"}}]},
        {"stages": [{"methods": ["lora"], "start": str(tmp_path / "work" / "runs" / "a")}]},
    ):  # fmt: skip
        with pytest.raises(RecipeError):
            guard.recipe(recipe(**changes), None)


def test_a_runs_rows_in_a_data_folder_are_refused(guard: Guard, tmp_path: Path) -> None:
    run = tmp_path / "data" / "old-run"
    run.mkdir()
    (run / "recipe.yaml").write_text("{}")
    (run / "rows.jsonl").write_text("{}")
    for name in ("old-run", "old-run/rows.jsonl"):
        with pytest.raises(RecipeError, match="evaluated rows"):
            guard.recipe(recipe(data={"train": name}), None)


def test_steps_are_counted_over_stages(guard: Guard) -> None:
    guard.recipe(recipe(), 4)
    stages = [{"methods": ["lora"], "budget": {"steps": 3}}, {"methods": ["lora"], "budget": {"steps": 2}}]
    guard.recipe(recipe(stages=stages), 5)
    for text, most in ((recipe(), 3), (recipe(stages=stages), 4), (recipe(budget={"epochs": 1}), 100)):
        with pytest.raises(RecipeError, match="steps"):
            guard.recipe(text, most)


@pytest.mark.parametrize("text", ["- a", "a: [", "x", "data: 3\nmodel: nano"])
def test_what_is_no_recipe_is_one_message(text: str, guard: Guard) -> None:
    with pytest.raises(RecipeError):
        guard.recipe(text, None)


def test_texts_of_evaluation_rows_are_taken_out_wherever_they_stand(guard: Guard) -> None:
    told = guard.told({"a": [f"row 3: '{SECRET}' is odd", 4], SECRET: ("x", None)})
    assert told == {"a": [f"row 3: '{WITHHELD}' is odd", 4], WITHHELD: ["x", None]}


def test_a_report_shows_figures_and_no_answer(guard: Guard) -> None:
    report = {
        "run": {"name": "a", "attempt": 3, "command": "x"}, "model": {"name": "nano"}, "task": "text-generation",
        "answers": [{"prompt": SECRET}], "tokens_view": {"x": [["t", 1.0]]}, "notes": [f"odd: {SECRET}"],
        "probes": {"p": {"values": {"v": 1.5, "t": SECRET}, "rows": [[SECRET]]}}, "target": {"metric": "exact match"},
        "files": {"rows.jsonl": "all"},
    }  # fmt: skip
    shown = guard.report(report)
    assert SECRET not in json.dumps(shown) and "answers" not in shown and "files" not in shown
    assert shown["run"]["attempt"] == 3 and shown["probes"] == {"p": {"v": 1.5}} and "1 answers" in shown["withheld"]


def test_a_checks_problems_of_evaluation_rows_are_counted_alone(guard: Guard) -> None:
    found = {
        "ok": False,
        "problems": [{"where": "test.jsonl:3", "reason": "label 'x'"}, {"where": "train.jsonl:1", "reason": "empty"}],
        "notices": [{"kind": "overlap", "where": ["a:1"], "pairs": [["a:1", "b:2"], ["a:3", "b:4"]]}],
    }
    told = guard.checked(found)
    assert [p["where"] for p in told["problems"]] == ["train.jsonl:1"] and told["problems_of_evaluation_rows"] == 1
    assert told["notices"] == [] and overlap(found) == 2


def test_places_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="folder of data"):
        Guard([tmp_path / "none"], [], tmp_path)
    with pytest.raises(DataError, match="evaluation file"):
        Guard([tmp_path], [tmp_path / "none"], tmp_path)


def test_attempts_are_counted_by_their_rows_and_keep_their_number(tmp_path: Path) -> None:
    assert attempts.count(tmp_path / "a", "h") is None  # nobody asked for a count here
    attempts.start(tmp_path)
    assert [attempts.count(tmp_path / n, "h") for n in "abca"] == [1, 2, 3, 1]
    assert attempts.count(tmp_path / "b", "other") == 1 and attempts.count(tmp_path / "b", None) is None
    attempts.start(tmp_path)
    assert attempts.counted(tmp_path) == {"h": ["a", "b", "c"], "other": ["b"]}
    (tmp_path / attempts.FILE).write_text("[]")
    with pytest.raises(Exception, match="cannot be read"):
        attempts.count(tmp_path / "d", "h")
