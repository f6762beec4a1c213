"""Two outputs of lm-evaluation-harness, paired row by row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tunewright.commands.cli import app
from tunewright.errors import DataError, MethodError, RecipeError
from tunewright.measure.intervals import mcnemar
from tunewright.paired import lm_eval, shown
from tunewright.paired.request import conditions

STAMP = "2026-01-02T03-04-05.678901"


def write(folder: Path, tasks: dict[str, list[dict[str, Any]]], stamp: str = STAMP, **results: Any) -> Path:
    """A folder as lm_eval 0.4 writes it with --output_path and --log_samples."""
    inner = folder / "org__model"
    inner.mkdir(parents=True, exist_ok=True)
    (inner / f"results_{stamp}.json").write_text(json.dumps({"results": {t: {"alias": t} for t in tasks}, **results}))
    for task, rows in tasks.items():
        lines = [json.dumps({"doc": {"q": 1}, "target": "a", "resps": [["a"]], **row}) for row in rows]
        (inner / f"samples_{task}_{stamp}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def rows(scores: list[float], metric: str = "acc", **more: Any) -> list[dict[str, Any]]:
    return [
        {"doc_id": i, "doc_hash": f"h{i}", "filter": "none", "metrics": [metric], metric: s, **more}
        for i, s in enumerate(scores)
    ]


def test_rows_are_paired_and_the_better_direction_is_the_harnesss(tmp_path: Path) -> None:
    one, other = [1, 1, 0, 0, 1, 0, 1, 1] * 4, [1, 1, 1, 0, 1, 1, 1, 0] * 4
    better = {"arc_easy": {"acc": True}, "wiki": {"word_perplexity": False}}
    first = {"arc_easy": rows(one), "wiki": rows([3.0, 4.0, 5.0], "word_perplexity"), "only_here": rows([1])}
    second = {"arc_easy": rows(other), "wiki": rows([2.0, 3.5, 4.0], "word_perplexity")}
    write(tmp_path / "a", first, higher_is_better=better)
    write(tmp_path / "b", second, higher_is_better=better)
    pair = lm_eval.measure([str(tmp_path / "a")], [str(tmp_path / "b")], out=tmp_path / "out")
    assert pair.target is not None and pair.target.name == "arc_easy" and pair.target.direction == "higher"
    assert pair.target.before is not None and pair.target.before.value == sum(one) / len(one)
    assert pair.target.difference is not None
    assert pair.target.difference.value == pytest.approx((sum(other) - sum(one)) / len(one))
    assert pair.target.right == (4, 8) and pair.target.mcnemar == mcnemar(4, 8)
    (wiki,) = pair.others
    assert (wiki.direction, wiki.mcnemar, wiki.unit) == ("lower", None, "score")
    assert any("only_here" in n for n in pair.notes)
    assert "arc_easy" in shown.text(pair)
    assert (tmp_path / "out" / "measured.json").is_file()
    # another order of the lines is the same rows
    file = next((tmp_path / "b").rglob("samples_arc_easy*"))
    file.write_text("\n".join(reversed(file.read_text().splitlines())))
    assert lm_eval.measure([str(tmp_path / "a")], [str(tmp_path / "b")], out=None).target == pair.target


def test_filters_stand_apart_and_the_newest_evaluation_is_read(tmp_path: Path) -> None:
    def both(strict: float, flexible: float) -> list[dict[str, Any]]:
        found = []
        for f, s in (("strict-match", strict), ("flexible-extract", flexible)):
            found += [{**r, "filter": f} for r in rows([s] * 5, "exact_match")]
        return found

    write(tmp_path / "a", {"gsm8k": both(0, 0)}, "2025-01-01T00-00-00.0")
    write(tmp_path / "a", {"gsm8k": both(0, 1)})
    write(tmp_path / "b", {"gsm8k": both(1, 1)})
    pair = lm_eval.measure([str(tmp_path / "a")], [str(tmp_path / "b")], out=None)
    found = {m.name: m.difference.value for m in [pair.target, *pair.others] if m is not None and m.difference}
    assert found == {"gsm8k (strict-match)": 1.0, "gsm8k (flexible-extract)": 0.0}
    old = next((tmp_path / "a").rglob("results_2025*"))
    assert lm_eval.holds(str(old))
    pair = lm_eval.measure([str(old)], [str(tmp_path / "b")], out=None)
    assert [m.difference.value for m in pair.others if m.difference] == [1.0]


def test_older_files_without_names_of_metrics(tmp_path: Path) -> None:
    for name, s in (("a", 0.0), ("b", 1.0)):
        write(tmp_path / name, {"t": [{"doc_id": i, "acc": s, "acc_norm": 1.0, "bits": [1, 2]} for i in range(4)]})
    pair = lm_eval.measure([str(tmp_path / "a")], [str(tmp_path / "b")], out=None)
    metrics = [m.metric for m in [pair.target, *pair.others] if m is not None]
    assert metrics == ["acc", "acc_norm"]


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ({"t": [{"doc_id": 0, "doc_hash": "other", "acc": 1.0}]}, "another row on each side"),
        ({"u": rows([1.0])}, "no task in common"),
        ({"t": [{"doc_id": 0, "acc": 1.0}, {"doc_id": 0, "acc": 1.0}]}, "is there twice"),
        ({"t": [{"doc": 0, "acc": 1.0}]}, "no row of the harness"),
        ({"t": [{"doc_id": 0, "acc": float("nan")}]}, "not finite"),
    ],
)
def test_what_is_not_comparable_is_one_message(tmp_path: Path, second: dict[str, Any], words: str) -> None:
    write(tmp_path / "a", {"t": rows([1.0])})
    write(tmp_path / "b", second)
    with pytest.raises(DataError, match=words):
        lm_eval.measure([str(tmp_path / "a")], [str(tmp_path / "b")], out=None)


def test_the_verb_reads_the_harnesss_folders_and_judges_them(tmp_path: Path) -> None:
    write(tmp_path / "a", {"t": rows([1.0, 0.0] * 100)})
    write(tmp_path / "b", {"t": rows([1.0, 1.0] * 100)})
    arguments = ["measure", str(tmp_path / "a"), str(tmp_path / "b")]
    done = CliRunner().invoke(app, [*arguments, "--require", "target better by 0.4"])
    assert done.exit_code == 0 and "gate: pass" in done.output
    assert CliRunner().invoke(app, [*arguments, "--require", "target >= 1.0"]).exit_code == 11
    with pytest.raises(RecipeError, match="another one of its own"):
        lm_eval.measure([str(tmp_path / "a")], ["some/model"], bounds=conditions(["target >= 1"]), out=None)
    empty = tmp_path / "e"
    write(empty, {})
    with pytest.raises(DataError, match="--log_samples"):
        lm_eval.read(next(empty.rglob("results_*")))


def test_ties_and_folders_of_several_models_and_flags_that_ask_again(tmp_path: Path) -> None:
    write(tmp_path / "a", {"t": rows([1.0, 0.0, 1.0])})
    write(tmp_path / "b", {"t": rows([1.0, 0.0, 1.0])})
    arguments = ["measure", str(tmp_path / "a"), str(tmp_path / "b")]
    tie = CliRunner().invoke(app, [*arguments, "--require", "target no worse by 0.01"])
    assert tie.exit_code == 11, "three rows that are alike do not tell a hundredth"
    for flag in (["--rows", "2"], ["--data", "x.jsonl"], ["--metric", "acc"]):
        refused = CliRunner().invoke(app, [*arguments, *flag])
        assert refused.exit_code == 2
    other = tmp_path / "b" / "org__other"
    other.mkdir()
    (other / f"samples_t_{STAMP}.jsonl").write_text(json.dumps({"doc_id": 0, "acc": 1.0}))
    with pytest.raises(DataError, match="2 models were evaluated into this folder"):
        lm_eval.measure([str(tmp_path / "a")], [str(tmp_path / "b")], out=None)


def test_the_target_is_named_where_it_could_be_another(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / name, {"t": rows([1.0, 0.0]), "u": rows([0.5, 0.25], "f1")})
    pair = lm_eval.measure([str(tmp_path / "a")], [str(tmp_path / "b")], out=None)
    assert pair.notes == ["`target` is acc of t, the first of 2 figures by the tasks' names"]
    assert "accuracy: t" in shown.text(pair) or "acc: t" in shown.text(pair)


def test_a_condition_names_a_task_and_its_metric(tmp_path: Path) -> None:
    """`task.NAME` is the first metric of the task, whichever task comes first; `task.NAME/METRIC` another of it."""
    two = [{**row, "acc_norm": 0.0, "metrics": ["acc", "acc_norm"]} for row in rows([1.0] * 40)]
    write(tmp_path / "a", {"arc": rows([0.0] * 40), "zeta": two})
    write(tmp_path / "b", {"arc": rows([0.0] * 40), "zeta": two})
    sides = [str(tmp_path / "a")], [str(tmp_path / "b")]

    def verdicts(*said: str) -> list[str]:
        gate = lm_eval.measure(*sides, bounds=conditions(said), out=None).gate
        assert gate is not None
        return [c.verdict for c in gate.conditions]

    said = ("task.zeta >= 0.8", "task.zeta/acc_norm >= 0.8", "task.arc <= 0.2", "task.zeta no worse by 0.2")
    assert verdicts(*said) == ["pass", "fails", "pass", "pass"]
    with pytest.raises(MethodError, match="no task 'zet' was evaluated") as error:
        verdicts("task.zet >= 1")
    assert "zeta" in str(error.value)


@pytest.mark.parametrize(
    ("said", "model"),
    [
        ({"model_name": "org/model"}, "org/model"),
        ({"config": {"model_args": "pretrained=org/base,peft=runs/a/adapter"}}, "org/base with runs/a/adapter"),
        ({"config": {"model_args": {"pretrained": "tickets"}}}, "tickets"),
        ({}, None),
        ({"config": None}, None),
    ],
)
def test_the_models_that_the_harness_asked_are_named(said: dict[str, Any], model: str | None, tmp_path: Path) -> None:
    write(tmp_path / "a", {"t": rows([1.0, 0.0])}, **said)
    write(tmp_path / "b", {"t": rows([1.0, 1.0])}, model_name="org/other")
    pair = lm_eval.measure([str(tmp_path / "a")], [str(tmp_path / "b")], out=tmp_path / "out")
    assert (pair.first.model, pair.second.model) == (model, "org/other")
    text = shown.text(pair, width=400)
    assert "(org/other)" in text and (f"({model})" in text) is (model is not None)
