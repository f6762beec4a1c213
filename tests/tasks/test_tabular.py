"""Tables whole: what is learnt of training rows alone, runs with trees beside them, what is exported, measured, refused
and proposed.
"""

from __future__ import annotations

import csv
import json
import math
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tests import tiny
from tunewright.contract.batch import Row
from tunewright.errors import DataError, ModelError, RecipeError, TunewrightError
from tunewright.finished.export import export
from tunewright.finished.finished import open_run
from tunewright.loading.tables import TABLE_FILE, layout_in
from tunewright.measure import likely, trees
from tunewright.measure.metrics import check_rows
from tunewright.measure.rows import RowResult, read_rows
from tunewright.measure.target import summary
from tunewright.paired.measuring import measure
from tunewright.paired.request import Request
from tunewright.planning.check import check_recipe
from tunewright.planning.init import starter, write_recipe
from tunewright.planning.init_tables import Said
from tunewright.recipe import Recipe
from tunewright.report import sentences, words
from tunewright.report.schema import Report
from tunewright.runs.assemble import assemble
from tunewright.runs.run import resume, run
from tunewright.runs.tables import with_layout
from tunewright.tasks import _table, get_task
from tunewright.tasks._parts import TREES

CLASSES, NUMBERS = "tabular-classification", "tabular-regression"
READER = tiny.tokenizer(encoder=True, chat=False)
COLUMNS = ("age", "job", "note", "since")


def people(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows whose income follows from the age and the job; some cells are missing."""
    rng, out = random.Random(seed), []
    for i in range(count):
        age, job = rng.randint(18, 65), rng.choice(["clerk", "cook", "pilot"])
        pay = 10 * age + {"clerk": 100, "cook": 0, "pilot": 600}[job] + rng.random()
        row = {"age": age, "job": job, "note": f"row {i} of it", "since": f"20{rng.randint(10, 24)}-01-02"}
        row = {k: "" if k in ("age", "since") and rng.random() < 0.1 else v for k, v in row.items()}
        out.append({**row, "income": "high" if pay > 600 else "low", "pay": round(pay, 2)})
    return out


def write(path: Path, rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as f:
        writer = csv.DictWriter(f, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


def base(folder: Path) -> None:
    tiny.bert_classifier(labels=3).save_pretrained(folder / "base")
    READER.save_pretrained(folder / "base")


def recipe(folder: Path, task: str = CLASSES, **changes: Any) -> Recipe:
    target = {NUMBERS: "pay"}.get(task, "income")
    if not (folder / "base").exists():
        base(folder)
    if not (folder / "train.csv").exists():
        write(folder / "train.csv", people(60), [*COLUMNS, target])
        write(folder / "test.csv", people(30, 1), [*COLUMNS, target])
    tree = {
        "model": "./base",
        "task": task,
        "data": {"train": "train.csv", "eval": "test.csv", "target": target, "max_length": 96},
        "methods": ["full"],
        "train": {
            "learning_rate": 3e-3,
            "batch_tokens": 256,
            "precision": "float32",
            "threads": 1,
            "device": "cpu",
            "save_steps": 4,
        },
        "budget": {"steps": 6},
        "measurement": {"strengths": [1]},
    }
    (folder / "r.yaml").write_text(json.dumps(tree))
    return Recipe.load(folder / "r.yaml", [f"{k.replace('__', '.')}={json.dumps(v)}" for k, v in changes.items()])


def layout(made: Recipe) -> dict[str, Any]:
    table = with_layout(made).data.table
    assert table is not None
    found = table.layout()
    assert found is not None
    return found


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    return tmp_path


# -- what is learnt of the rows ----------------------------------------------------------------------------------------


def test_statistics_are_those_of_training_rows_alone(place: Path) -> None:
    made = recipe(place, NUMBERS)
    before = layout(made)
    ages = [r["age"] for r in people(60) if r["age"] != ""]
    assert before["columns"][0]["mean"] == pytest.approx(np.mean(ages)) and before["columns"][0][
        "std"
    ] == pytest.approx(np.std(ages))
    assert before["target"]["mean"] == pytest.approx(np.mean([r["pay"] for r in people(60)]))
    write(
        place / "test.csv",
        [{**r, "age": 10_000, "job": f"j{i}", "pay": 1e6} for i, r in enumerate(people(30, 1))],
        [*COLUMNS, "pay"],
    )
    assert layout(made) == before


def test_rows_that_are_held_out_teach_no_statistics(place: Path) -> None:
    made = recipe(place, NUMBERS, data__validation=0.25, data__eval=None)
    session = assemble(made)
    assert session.validation is not None and len(session.validation.rows) == 15
    learnt = session.stages[0].rows.rows
    held, left = ({r.id for r in rows} for rows in (session.validation.rows, learnt))
    assert len(left) == 45 and not held & left
    ages = [r.fields["cells"][0] for r in learnt if r.fields["cells"][0] is not None]
    found = layout(made)
    assert found["columns"][0]["mean"] == pytest.approx(np.mean(ages))
    assert found["target"]["std"] == pytest.approx(np.std([float(r.fields["reference"]) for r in learnt]), rel=1e-5)
    assert np.mean([r.fields["target"][0] for r in learnt]) == pytest.approx(0, abs=1e-9)
    other = assemble(recipe(place, NUMBERS, data__validation=0.25, data__eval=None, train__seed=1))
    assert other.validation is not None and {r.id for r in other.validation.rows} != held


def test_a_stage_with_rows_of_its_own_is_learnt_from_too(place: Path) -> None:
    recipe(place, NUMBERS)
    write(place / "more.csv", [{**r, "age": 90} for r in people(60, 2)], [*COLUMNS, "pay"])
    stages = [{"name": "a", "methods": ["full"]}, {"name": "b", "methods": ["full"], "data": {"train": "more.csv"}}]
    tree = json.loads((place / "r.yaml").read_text())
    tree = {k: v for k, v in tree.items() if k not in ("methods", "budget")} | {"stages": stages}
    (place / "two.yaml").write_text(json.dumps(tree))
    two = layout(Recipe.load(place / "two.yaml"))
    ages = [r["age"] for r in people(60) if r["age"] != ""] + [90] * 60
    assert two["columns"][0]["mean"] == pytest.approx(np.mean(ages))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("features", ["job", "age"]),
        ("table", {"numbers": "bins"}),
        ("table", {"numbers": "scaled"}),
        ("table", {"numbers": "bins", "bins": 3}),
        ("table", {"missing": "write"}),
        ("table", {"types": {"age": "category"}}),
        ("table", {"shuffle": True}),
    ],
)
def test_every_option_changes_what_is_learnt_from(place: Path, key: str, value: Any) -> None:
    plain, other = (assemble(recipe(place, **more)) for more in ({}, {f"data__{key}": value}))

    def given(session: Any) -> Any:
        batch = session.task.collate(session.stages[0].rows.rows[:16], epochs=[0] * 16)
        cells = [r.fields["cells"] for r in session.stages[0].rows.rows[:16]]
        factors = batch.fields.get("factors")
        return batch.inputs["input_ids"].tolist(), cells, None if factors is None else factors.tolist()

    assert given(plain) != given(other)


def test_digits_and_the_target_are_read(place: Path) -> None:
    rows = [{**r, "age": 1.23456 * i, "other": r["job"] == "cook"} for i, r in enumerate(people(60))]
    recipe(place)
    write(place / "train.csv", rows, ["age", "income", "other"])
    write(place / "test.csv", rows, ["age", "income", "other"])

    def first(**more: Any) -> tuple[str, Any]:
        row = assemble(recipe(place, **more)).stages[0].rows.rows[1]
        return READER.decode(row.input_ids, skip_special_tokens=True).replace(" ", ""), row.fields["reference"]

    assert first()[0].startswith("age:1.235;") and first(data__table={"digits": 2})[0].startswith("age:1.2;")
    assert first()[1] in ("high", "low") and first(data__target="other")[1] in ("True", "False")


# -- runs --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_of_classes(place: Path) -> None:
    run(recipe(place), place / "out", quiet=True)
    report = Report.load(place / "out")
    target = report.target
    assert target is not None and target.metric == "accuracy" and target.fresh_head and target.linear_probe is not None
    assert [o.metric for o in target.others] == ["f1_macro", "log_loss", "roc_auc"]
    assert all(o.before is not None and o.before.known and o.difference is not None for o in target.others)
    (found,) = target.baselines
    assert (
        found.name == TREES
        and found.before is not None
        and found.difference is not None
        and report.cost.seconds[TREES] > 0
    )
    assert found.before.value > 0.7 and found.before.n == 30
    assert report.drift is not None and report.drift.measure == "1-cka"
    page = (place / "out" / "report.html").read_text()
    assert TREES in page and "roc auc" in page.lower()
    told = sentences.beneath_trees(report)
    assert ("Gradient-boosted trees" in told) == (words.verdict(found) != "better") and (
        not told or told in sentences.cautions(report)
    )
    export(place / "out", place / "model", quiet=True)
    made = layout_in(place / "model", CLASSES)
    assert made is not None and made["columns"] == layout(recipe(place))["columns"]
    net = AutoModelForSequenceClassification.from_pretrained(place / "model", local_files_only=True).eval()
    reader = AutoTokenizer.from_pretrained(place / "model", local_files_only=True)
    for row, plain in zip(read_rows(place / "out" / "rows.jsonl"), people(30, 1), strict=True):
        said = _table.text_of(_table.parts_of(plain, made))  # from a plain row and what lies beside the model
        with torch.no_grad():
            logits = net(**reader(said, return_tensors="pt")).logits[0]
        assert net.config.id2label[int(logits.argmax())] == row.tuned and row.reference == plain["income"]
    pair = measure(Request([str(place / "base")], [str(place / "model")], data=[str(place / "test.csv")]))
    assert (
        pair.task == CLASSES and pair.target is not None and pair.target.after is not None and target.after is not None
    )
    assert pair.target.after.value == pytest.approx(target.after.value, abs=1e-6)
    again = measure(Request([str(place / "out")], [str(place / "model")]))
    assert again.target is not None and again.target.difference is not None and again.target.difference.value == 0
    assert resume(place / "out", verify=True, quiet=True) is None
    (place / "train.csv").unlink()
    (place / "test.csv").unlink()
    opened = open_run(place / "out")  # what was learnt of the rows stays with the run
    assert opened.options.table is not None and opened.options.table["columns"] == made["columns"]


@pytest.mark.slow
def test_a_run_of_numbers(place: Path) -> None:
    run(recipe(place, NUMBERS, data__table={"shuffle": True, "numbers": "scaled"}), place / "out", quiet=True)
    report = Report.load(place / "out")
    target, asked, learnt = report.target, people(30, 1), people(60)
    assert target is not None and target.metric == "rmse" and target.unit == "units of the target"
    assert not any("data.problem_type" in note for note in report.notes)  # the task's name says it
    assert [o.metric for o in target.others] == ["mae", "r2"] and target.direction == "lower"
    mean = np.mean([r["pay"] for r in learnt])
    wanted = math.sqrt(np.mean([(r["pay"] - mean) ** 2 for r in asked]))
    assert target.commonest is not None and target.commonest.value == pytest.approx(wanted, rel=1e-4)
    rows = list(read_rows(place / "out" / "rows.jsonl"))
    errors = [float(r.tuned) - p["pay"] for r, p in zip(rows, asked, strict=True)]
    assert target.after is not None and target.after.value == pytest.approx(
        math.sqrt(np.mean(np.square(errors))), rel=1e-6
    )
    mae, r2 = (next(o for o in target.others if o.metric == m).after for m in ("mae", "r2"))
    truth, said = [p["pay"] for p in asked], [float(r.tuned) for r in rows]
    assert mae is not None and mae.value == pytest.approx(sk.mean_absolute_error(truth, said), rel=1e-6)
    assert r2 is not None and r2.value == pytest.approx(sk.r2_score(truth, said), rel=1e-6)
    (found,) = target.baselines
    assert found.name == TREES and found.before is not None and found.before.value < wanted
    assert resume(place / "out", verify=True, quiet=True) is None
    export(place / "out", place / "model", quiet=True)
    pair = measure(Request([str(place / "out")], [str(place / "model")], data=[str(place / "test.csv")]))
    assert pair.target is not None and pair.target.after is not None
    assert pair.target.after.value == pytest.approx(target.after.value, rel=1e-4)


# -- trees -------------------------------------------------------------------------------------------------------------


def rows_with(cells: Sequence[Sequence[Any]], labels: Sequence[Any], number: bool = False) -> list[Row]:
    fields = [
        {
            "cells": list(c),
            **({"target": [float(y)], "unit": [10.0, 2.0], "reference": f"{10 + 2 * y:.6g}"} if number else {}),
        }
        for c, y in zip(cells, labels, strict=True)
    ]
    return [
        Row(f"r:{i}", "s", [1], [1.0], None if number else y, f)
        for i, (f, y) in enumerate(zip(fields, labels, strict=True))
    ]


def test_trees_are_scikit_learns_own() -> None:
    g = np.random.default_rng(0)
    made = {"columns": [{"kind": k} for k in ("number", "text", "category", "date")]}
    x = g.normal(size=(120, 2))
    names = g.choice(["a", "b", "c"], 120).tolist()
    y = ((x[:, 0] > 0) ^ (np.array(names) == "b")).astype(int).tolist()
    cells = [
        [None if i % 9 == 0 else float(p), "some text", None if i % 7 == 0 else n, float(q)]
        for i, ((p, q), n) in enumerate(zip(x, names, strict=True))
    ]
    learnt, asked = cells[:80], [*cells[80:119], [0.5, "t", "new", 0.0]]
    codes = {n: float(i) for i, n in enumerate(sorted(set("abc"), key=lambda n: (-sum(c[2] == n for c in learnt), n)))}
    table = np.array([[c[0], codes.get(c[2]), c[3]] for c in [*learnt, *asked]], dtype=float)
    model = HistGradientBoostingClassifier(categorical_features=[False, True, False], random_state=0).fit(
        table[:80], y[:80]
    )
    found = trees.results(made, rows_with(learnt, y[:80]), rows_with(asked, y[80:]), "accuracy", {0: "no", 1: "yes"})
    shares = model.predict_proba(table[80:])
    assert [r.answer for r in found] == [["no", "yes"][i] for i in shares.argmax(1)]
    assert [r.likelihood for r in found] == pytest.approx(shares[range(40), y[80:]].tolist())
    assert [r.score for r in found] == [float(a == b) for a, b in zip(shares.argmax(1), y[80:], strict=True)]
    told = HistGradientBoostingRegressor(categorical_features=[False, True, False], random_state=0).fit(
        table[:80], x[:80, 1]
    )
    numbers = trees.results(made, rows_with(learnt, x[:80, 1], True), rows_with(asked, x[80:, 1], True), "rmse", None)
    assert [float(r.answer) for r in numbers] == pytest.approx((10 + 2 * told.predict(table[80:])).tolist(), abs=6e-5)
    assert numbers[0].score == pytest.approx(abs(float(numbers[0].answer) - float(numbers[0].reference)))
    assert trees.has_columns(made) and not trees.has_columns({"columns": [{"kind": "text"}]})
    same = trees.results(made, rows_with(learnt, [1] * 80), rows_with(asked, y[80:]), "accuracy", {0: "no", 1: "yes"})
    assert {r.answer for r in same} == {"yes"}


def test_trees_know_the_commonest_categories_and_no_others() -> None:
    columns = {"columns": [{"kind": "category"}]}
    learnt = [[f"c{i:03}"] for i in range(300) for _ in range(1 if i >= trees.CATEGORIES else 2)]
    known = trees._known(["category"], rows_with(learnt, [0] * len(learnt)))
    assert len(known[0]) == trees.CATEGORIES and "c000" in known[0] and "c299" not in known[0]
    assert np.isnan(trees._matrix(["category"], known, rows_with([["c299"], [None]], [0, 0]))).all()
    half = trees.results(
        columns,
        rows_with(learnt, [i % 2 for i in range(len(learnt))]),
        rows_with([["c299"]], [1]),
        "accuracy",
        {0: "a", 1: "b"},
    )
    assert len(half) == 1


# -- metrics -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_likelihoods_are_judged_as_scikit_learn_judges_them(seed: int) -> None:
    g = np.random.default_rng(seed)
    right, p = g.integers(0, 2, 50), g.random(50).round(1)  # with ties
    rows = [
        RowResult(
            id=str(i),
            reference="ab"[y],
            answer="ab"[int(q > 0.5)],
            score=float((q > 0.5) == y),
            likelihood=float(q if y else 1 - q),
        )
        for i, (y, q) in enumerate(zip(right, p, strict=True))
    ]
    assert likely.roc_auc(rows) == pytest.approx(sk.roc_auc_score(right, p))
    assert likely.log_loss(rows) == pytest.approx(sk.log_loss(right, p))
    found = summary(rows, "roc_auc")
    assert (
        found.known
        and found.low is not None
        and found.high is not None
        and 0 <= found.low <= found.value <= found.high <= 1
    )
    assert math.isnan(likely.roc_auc([r for r in rows if r.reference == "a"]))
    assert summary(rows, "log_loss").known


def test_an_area_under_a_curve_needs_two_classes() -> None:
    task = get_task(CLASSES)
    rows = rows_with([[1]] * 3, [0, 1, 2])
    with pytest.raises(RecipeError, match="a first class from a second"):
        check_rows("roc_auc", task, rows)
    check_rows("roc_auc", task, rows[:2])
    assert task.beside("accuracy", rows) == ("f1_macro", "log_loss") and task.beside("loss", rows) == ()


# -- what is refused, and what is told ---------------------------------------------------------------------------------


def refused(
    folder: Path, kind: type[TunewrightError], says: str, task: str = CLASSES, **changes: Any
) -> TunewrightError:
    with pytest.raises(kind, match=says) as caught:
        run(recipe(folder, task, **changes), folder / "out", quiet=True)
    assert not (folder / "out").exists()
    return caught.value


def test_targets_that_cannot_be_learnt_are_refused(place: Path) -> None:
    recipe(place)
    write(place / "train.csv", [{**r, "income": "low"} for r in people(30)], [*COLUMNS, "income"])
    refused(place, DataError, "the target 'income' is low in every training row")
    write(place / "train.csv", [{**r, "income": i * 1.5} for i, r in enumerate(people(30))], [*COLUMNS, "income"])
    error = refused(place, DataError, "'income' has 30 different numbers, as many classes")
    assert "tabular-regression" in str(error.remedy)
    write(place / "train.csv", [{**r, "income": i} for i, r in enumerate(people(150))], [*COLUMNS, "income"])
    refused(place, DataError, "150 different numbers")
    refused(place, DataError, "the target 'job' holds no numbers", NUMBERS, data__target="job")
    refused(place, DataError, "no column 'incom', the target", data__target="incom")


def test_files_that_lack_columns_are_told_row_by_row(place: Path) -> None:
    made = recipe(place)
    write(place / "test.csv", people(30, 1), ["age", "note", "since", "income"])
    found = check_recipe(made)
    assert not found.ok and len(found.bad_rows) == 30
    assert found.bad_rows[0].where.endswith("test.csv:2") and found.bad_rows[0].field == "job"
    assert "no column 'job'" in found.bad_rows[0].reason
    write(
        place / "test.csv",
        [{**r, "age": "old"} if i == 3 else r for i, r in enumerate(people(30, 1))],
        [*COLUMNS, "income"],
    )
    (bad,) = check_recipe(made).bad_rows
    assert bad.where.endswith("test.csv:5") and bad.field == "age" and "'old' is no number" in bad.reason
    (place / "train.csv").write_text("age,job,age,income\n1,a,2,x\n")
    with pytest.raises(DataError, match="two columns are called 'age'"):
        check_recipe(made)


def test_a_check_says_what_columns_hold(place: Path) -> None:
    made = recipe(place)
    rows = [{**r, "id": i} for i, r in enumerate(people(60))]
    write(place / "train.csv", rows, ["id", *COLUMNS, "income"])
    write(place / "test.csv", [{**r, "id": 99} for r in people(30, 1)], ["id", *COLUMNS, "income"])
    found = check_recipe(made)
    assert found.ok and found.to_json()["columns"] == found.report.columns
    assert "columns id: number, age: number, job: category of 3, note: text, since: date" in " ".join(
        str(found).split()
    )
    assert any("the column 'id' has another value in every training row" in c for c in found.report.cautions)
    short = check_recipe(recipe(place, data__max_length=24))
    assert short.ok and any("60 rows are longer than 24 tokens" in c for c in short.report.cautions)
    named = check_recipe(recipe(place, data__features=["job"]))
    assert named.report.columns == "job: category of 3" and not any("'id'" in c for c in named.report.cautions)
    assert any(n.kind == "overlap" for n in named.notices)  # by what is read alone


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"task": "text-classification"}, "reads no tables"),
        ({"data__features": ["age", "age"]}, "stands there twice"),
        ({"data__features": ["age", "income"]}, "is the target"),
        ({"data__features": ["age"], "data__table": {"types": {"job": "text"}}}, "none of features"),
        ({"data__template": "A: {text}"}, "take no template"),
        ({"data__train": {"path": "train.csv", "streaming": True}}, "none can be streamed"),
        ({"data__table": {"numbers": "words"}}, "numbers"),
    ],
)
def test_recipes_that_mean_nothing_are_refused(place: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        recipe(place, **changes)


def test_a_stage_reads_the_same_columns(place: Path) -> None:
    recipe(place)
    tree = json.loads((place / "r.yaml").read_text())
    stage = {"name": "a", "methods": ["full"], "data": {"features": ["age"]}}
    tree = {k: v for k, v in tree.items() if k not in ("methods", "budget")} | {"stages": [stage]}
    (place / "two.yaml").write_text(json.dumps(tree))
    with pytest.raises(RecipeError, match="all stages read the same columns"):
        Recipe.load(place / "two.yaml")


def test_a_model_that_reads_tables_reads_others_in_the_same_way(place: Path) -> None:
    run(
        recipe(place, data__features=["job", "age"], data__table={"numbers": "bins", "bins": 4}),
        place / "out",
        quiet=True,
    )
    export(place / "out", place / "model", quiet=True)
    write(place / "train.csv", [{**r, "age": 1} for r in people(40, 5)], [*COLUMNS, "income"])
    made = layout(recipe(place, model="./model"))
    assert made == layout_in(place / "model", CLASSES)
    assert (
        [c["name"] for c in made["columns"]] == ["job", "age"] and made["bins"] == 4 and made["columns"][1]["std"] > 1
    )
    for changes, where in (
        ({"data__features": ["age"]}, "data.features"),
        ({"data__table": {"bins": 5}}, "data.table.bins"),
        ({"data__table": {"types": {"age": "text"}}}, "data.table.types"),
    ):
        with pytest.raises(RecipeError) as caught:
            layout(recipe(place, model="./model", **changes))
        assert caught.value.where == where
    with pytest.raises(ModelError, match="reads tables for tabular-classification"):
        layout(recipe(place, NUMBERS, model="./model"))
    (place / "model" / TABLE_FILE).write_text('{"task": "tabular-classification", "columns": []}')
    with pytest.raises(ModelError, match="is broken"):
        layout(recipe(place, model="./model"))
    with pytest.raises(RecipeError, match="neither side says"):
        measure(Request([str(place / "base")], [str(place / "base")], data=[str(place / "test.csv")], task=CLASSES))


# -- a first recipe ----------------------------------------------------------------------------------------------------


def test_a_first_recipe_of_a_table(place: Path) -> None:
    recipe(place)
    model, data = str(place / "base"), place / "train.csv"
    text = starter(model, data, file=str(place / "first.yaml"))
    assert "task: tabular-classification" in text and "target: income" in text and "- full" in text
    (place / "first.yaml").write_text(text)
    assert check_recipe(place / "first.yaml").ok
    write(data, [{**r, "price": r["pay"]} for r in people(60)], [*COLUMNS, "price"])
    assert "task: tabular-regression" in starter(model, data)
    write(data, people(60), [*COLUMNS, "pay"])  # no name says what is told
    asked = starter(model, data, NUMBERS)
    assert "target: pay" in asked and "task: tabular-regression" in asked
    with pytest.raises(DataError):
        starter(model, data)
    write(data, [{"text": r["note"], "label": r["income"]} for r in people(60)], ["text", "label"])
    assert "task: text-classification" in starter(model, data)
    write(data, [{"note": r["note"]} for r in people(60)], ["note"])
    with pytest.raises(DataError, match="one column alone"):
        starter(model, data, CLASSES)


def test_a_first_recipe_is_told_the_target_and_what_columns_hold(place: Path) -> None:
    recipe(place)
    model, data = str(place / "base"), place / "train.csv"
    rows = [{**r, "zip, code": f"{10 + i % 3}"} for i, r in enumerate(people(60))]
    write(data, rows, [*COLUMNS, "zip, code", "income", "pay"])
    said = Said.of("pay", ["zip, code=category", "note=text"])
    written = write_recipe(model, str(data), None, place / "first.yaml", said)  # `income` is what names say
    assert written.task == NUMBERS and written.data.target == "pay"
    assert written.data.table is not None and written.data.table.types == {"zip, code": "category", "note": "text"}
    assert "guessed" not in (place / "first.yaml").read_text()
    assert check_recipe(place / "first.yaml").ok
    # rows that another task would read are a table's where something is said of their columns
    write(data, [{"text": r["note"], "label": r["income"]} for r in people(60)], ["text", "label"])
    assert "task: tabular-classification" in starter(model, data, said=Said.of(None, ["text=text"]))
    # what columns hold decides how long rows are: a number of twenty decimals loses most of them, a text none
    rows = [{**r, "share": f"{i / 7:.20f}"} for i, r in enumerate(people(60))]
    write(data, rows, [*COLUMNS, "share", "income"])
    numbers, texts = (starter(model, data, said=s) for s in (Said(), Said.of(None, ["share=text"])))
    length = re.compile(r"the longest row has (\d+)")
    assert int(length.findall(numbers)[0]) < int(length.findall(texts)[0])


@pytest.mark.parametrize(
    ("target", "types", "task", "told"),
    [
        ("incom", [], None, r"--target: the table has no column 'incom'(?s:.)*'income'"),
        ("income", ["agge=number"], None, r"--type: the table has no column 'agge'(?s:.)*'age'"),
        ("income", ["income=text"], None, r"the column 'income' is the target"),
        ("income", [], "text-generation", r"--target: the task text-generation reads no tables"),
        (None, ["age=number"], "time-series-forecasting", r"--type: the task time-series-forecasting reads no tables"),
        (None, ["age=numbr"], None, r"a column holds no 'numbr'(?s:.)*did you mean 'number'"),
        (None, ["age"], None, r"write COLUMN=KIND; kinds: number, category, date, text"),
        (None, ["age=number", "age=text"], None, r"both number and text"),
    ],
)
def test_what_is_said_of_a_table_wrongly_is_refused(
    place: Path, target: str | None, types: list[str], task: str | None, told: str
) -> None:
    recipe(place)
    with pytest.raises(RecipeError, match=told):
        starter(str(place / "base"), place / "train.csv", task, said=Said.of(target, types))
