"""`tunewright measure A B --lm-eval`: the harness's own library on both sides. What it needs the library for is skipped
without it (extra `eval`).
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from tests import small
from tunewright.commands.cli import app
from tunewright.errors import DataError, MissingExtraError, RecipeError
from tunewright.finished.finished import open_run
from tunewright.paired import harness
from tunewright.runs.run import run

needs_harness = pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="needs the extra eval")
CHOICES = ["lost card", "exchange rate", "cash fee"]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("harness")
    small.write_inputs(folder)
    run(small.write_recipe(folder, stages__0__budget={"steps": 12}), out=folder / "run", quiet=True)
    tasks = folder / "tasks"
    tasks.mkdir()
    asked = ["card lost", "rate abroad", "cash fee top"] * 3
    rows = [{"question": q, "choices": CHOICES, "label": i % 3} for i, q in enumerate(asked)]
    (tasks / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (tasks / "local.yaml").write_text(
        "task: local_choice\ndataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {tasks / 'rows.jsonl'}}}}}\n"
        "test_split: test\noutput_type: multiple_choice\n"
        "doc_to_text: '{{question}}'\ndoc_to_target: '{{label}}'\ndoc_to_choice: '{{choices}}'\n"
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )
    (tasks / "broken.yaml").write_text(
        "task: broken_choice\ndataset_path: json\ndataset_kwargs: {data_files: {test: nowhere.jsonl}}\n"
        "test_split: test\noutput_type: multiple_choice\ndoc_to_text: a\ndoc_to_target: 0\ndoc_to_choice: [a, b]\n"
    )
    return folder


def likeliest(folder: Path, question: str) -> int:
    """The oracle: plain transformers, the sum of the log-probabilities of a choice behind the question."""
    model, tokenizer = (x := open_run(folder)).adapted.model.eval(), x.loaded.tokenizer
    sums = []
    for choice in CHOICES:
        begun, whole = (tokenizer(t, add_special_tokens=False).input_ids for t in (question, f"{question} {choice}"))
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([whole])).logits[0].log_softmax(-1)
        sums.append(float(sum(logits[i - 1, whole[i]] for i in range(len(begun), len(whole)))))
    return max(range(3), key=sums.__getitem__)


@needs_harness
def test_its_tasks_are_run_on_both_sides_and_paired(ran: Path, tmp_path: Path) -> None:
    evaluation = harness.Evaluation(["local_choice"], ran / "tasks")
    pair = harness.measure(str(ran / "base"), str(ran / "run"), evaluation, out=tmp_path / "out")
    assert pair.target is not None and (pair.target.name, pair.target.metric, pair.target.n) == (
        "local_choice",
        "acc",
        9,
    )
    right = [likeliest(ran / "run", q) == i for i, q in enumerate(["card lost", "rate abroad", "cash fee top"])]
    assert pair.target.after is not None and pair.target.after.value == pytest.approx(sum(right) / 3)
    assert pair.first.names == [str(ran / "base")] and pair.second.kind == "run" and pair.first.hashes
    (theirs,) = (tmp_path / "out" / "lm-eval" / "second").rglob("results_*.json")
    said = json.loads(theirs.read_text())["results"]["local_choice"]["acc,none"]
    assert said == pytest.approx(pair.target.after.value)  # its numbers are its numbers
    fewer = harness.measure(
        str(ran / "base"), str(ran / "run"), harness.Evaluation(["local_choice"], ran / "tasks", rows=4)
    )
    assert fewer.target is not None and fewer.target.n == 4


@needs_harness
def test_what_it_cannot_evaluate_is_one_message(ran: Path) -> None:
    sides = str(ran / "base"), str(ran / "run")
    with pytest.raises(RecipeError, match="the harness has no task 'local_chioce'") as error:
        harness.measure(*sides, harness.Evaluation(["local_chioce"], ran / "tasks"))
    assert "local_choice" in str(error.value)
    with pytest.raises(DataError, match="the harness cannot evaluate broken_choice"):
        harness.measure(*sides, harness.Evaluation(["broken_choice"], ran / "tasks"))
    with pytest.raises(RecipeError, match="no such folder"):
        harness.measure(*sides, harness.Evaluation(["local_choice"], ran / "nowhere"))


def test_a_missing_library_is_one_message(ran: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="lm_eval, which is not installed") as error:
        harness.measure(str(ran / "base"), str(ran / "run"), harness.Evaluation(["arc_easy"]))
    assert "tunewright[eval]" in str(error.value)


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--lm-eval", "arc_easy", "--metric", "loss"], "leave --metric out"),
        (["--lm-eval", "arc_easy", "--probes", "calibration"], "leave --probes out"),
        (["--lm-eval", "arc_easy,"], "a task without a name"),
        (["--include-path", "."], "write --lm-eval TASK,... too"),
        (["--require", "task.arc_easy >= 0.5"], "tasks are not evaluated here"),
    ],
)
def test_flags_that_do_not_go_together(ran: Path, flags: list[str], said: str) -> None:
    result = CliRunner().invoke(app, ["measure", str(ran / "base"), str(ran / "run"), *flags])
    assert result.exit_code == 2 and said in " ".join(result.output.split())


def test_outputs_and_seeds_are_refused(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "samples_a_2026-01-01T00-00-00.jsonl").write_text("")
    no: dict[str, Any] = {}
    with pytest.raises(RecipeError, match="evaluated already"):
        harness.refuse([[str(tmp_path)]], no)
    with pytest.raises(RecipeError, match="one model a side"):
        harness.refuse([["a", "b"]], no)
