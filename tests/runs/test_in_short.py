"""Answers of numbers, as the page and the samples of a run have them."""

from __future__ import annotations

import json
from pathlib import Path

from tests.tasks.playing import CART, carts, policy, write
from tunewright.conformance.task_case import TaskCase
from tunewright.conformance.task_examples import example_of
from tunewright.recipe import Recipe
from tunewright.report.schema import Report
from tunewright.runs import in_short
from tunewright.runs.run import run


def test_numbers_are_told_in_four_digits_a_line_a_channel() -> None:
    assert in_short.series('{"OT": [30.51234, null], "b": {"0.1": [1.0], "0.5": [2.0]}}') == "OT: 30.51, -\nb: 2"
    assert in_short.series('{"OT": {"right": [1.0, 2.5], "mase": null, "std": 8.6}}') == "OT: 1, 2.5"
    long = in_short.series(json.dumps({"x": list(range(30))}))
    assert long.endswith("22, 23 ... (6 more)")
    assert in_short.actions("[1, 0]") == "1, 0" and in_short.actions("[[0.12345, 1]]") == "(0.1235, 1)"
    assert in_short.actions("20 steps, seed 1") == "20 steps, seed 1" and in_short.series("") == ""


def test_a_forecasters_page_report_and_samples_hold_no_json(tmp_path: Path, capsys) -> None:
    case = TaskCase("time-series-forecasting", example_of("time-series-forecasting"))
    tree = {**case.recipe_tree(), "budget": {"steps": 2}}
    tree["train"] |= {"eval_steps": 1}
    tree["data"]["validation"] = "test.jsonl"
    (case.folder / "short.yaml").write_text(json.dumps(tree))
    folder = run(case.folder / "short.yaml", out=tmp_path / "out").folder
    told = capsys.readouterr().err
    assert "(expected '" in told and "{" not in told.partition("(expected")[0].rpartition(" -> ")[2]
    answer = Report.load(folder).answers[0]
    assert all(text and not text.startswith("{") for text in (answer.base, answer.tuned, answer.reference))
    page = (folder / "report.html").read_text()
    assert (
        "&#34;right&#34;" not in page and "MASE" in page and "mase" not in page.partition("<main")[2].split("recipe")[0]
    )
    first = (folder / "rows.jsonl").read_text().splitlines()[0]
    assert json.loads(json.loads(first)["tuned"])  # what the file holds is whole


def test_a_policys_actions_stand_side_by_side(tmp_path: Path) -> None:
    policy(**CART).save_pretrained(tmp_path / "base")
    write(tmp_path / "rows.jsonl", carts(4))
    write(tmp_path / "test.jsonl", carts(1, 7))
    data = {"train": str(tmp_path / "rows.jsonl"), "eval": str(tmp_path / "test.jsonl"), "trajectories": {"context": 4}}
    tree = {"model": str(tmp_path / "base"), "task": "reinforcement-learning", "data": data, "budget": {"steps": 1}}
    report = run(Recipe.model_validate({**tree, "methods": ["lora"]}), out=tmp_path / "out", quiet=True).report
    assert all("[" not in text and set(text) <= set("01, ") for a in report.answers for text in (a.tuned, a.reference))
