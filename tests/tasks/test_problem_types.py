"""Classification with any number of labels a row, or with a number: what the rows are told by, losses as transformers
has them, metrics as scikit-learn and scipy count them, and whole runs.
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from sklearn import metrics as sk
from sklearn.linear_model import LogisticRegression, Ridge
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tests import tiny
from tunewright.conformance import checks_of_task
from tunewright.conformance.task_case import TaskExample
from tunewright.contract.records import Record, RowProblem
from tunewright.contract.task import MULTI_LABEL, REGRESSION, SINGLE_LABEL, EncodeOptions
from tunewright.data.problem_type import problem_type
from tunewright.errors import MethodError, RecipeError
from tunewright.finished.export import export
from tunewright.measure import linear_probe, numeric, several
from tunewright.measure.metrics import check_metric
from tunewright.measure.rows import RowResult, read_rows
from tunewright.paired.measuring import measure
from tunewright.paired.request import Request
from tunewright.planning.check import check_recipe
from tunewright.planning.init import starter
from tunewright.recipe import Recipe, Source
from tunewright.report.schema import Report
from tunewright.runs import head_start
from tunewright.runs.run import run
from tunewright.tasks import get_task

LABELS = ("billing", "cards", "loans")
SAID = {"billing": "charged twice", "cards": "a lost card", "loans": "money to borrow"}
OPTIONS = EncodeOptions(labels=LABELS)
READER = tiny.tokenizer(encoder=True, chat=False)


def texts(count: int, kind: str, seed: int = 0) -> list[dict[str, Any]]:
    rng, out = random.Random(seed), []
    for i in range(count):
        labels = [label for label in LABELS if rng.random() < 0.4]
        text = f"{i} " + " ".join(SAID[label] for label in labels)
        more = {"multi": {"labels": labels}, "regression": {"label": len(labels) * 1.5 + 2.25}}
        out.append({"text": text, **more[kind]})
    return out


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def task(kind: str, name: str = "text-classification") -> Any:
    return get_task(name, {"multi": MULTI_LABEL, "regression": REGRESSION}[kind])


def encoded(kind: str, options: EncodeOptions = OPTIONS, **values: Any) -> Any:
    return task(kind).encode(Record({"text": "a lost card", **values}, id="r", source="s"), READER, options)


# -- what rows are ---------------------------------------------------------------------------------------------------

FOUND: list[tuple[list[dict[str, Any]], list[str] | None, str]] = [
    ([{"label": "a"}, {"label": "b"}], None, SINGLE_LABEL),
    ([{"label": 0}, {"label": 1.0}, {"label": "2"}], None, SINGLE_LABEL),
    ([{"label": 0.5}, {"label": "a"}], None, SINGLE_LABEL),
    ([{"label": 0.5}, *[{"label": 1}] * 19], None, SINGLE_LABEL),
    ([{"label": 0.5}, *[{"label": 1}] * 9], None, REGRESSION),
    ([{"label": "3.75"}, {"label": "1"}], None, REGRESSION),
    ([*[{"label": 1.5}] * 9, {"label": "high"}], None, REGRESSION),
    ([*[{"label": 1.5}] * 8, {"label": "high"}, {"label": "low"}], None, SINGLE_LABEL),
    ([{"label": 1.5}, {"label": None}, {"label": None}], None, REGRESSION),
    ([{"label": 0.5}, {"label": 1.5}], ["0.5", "1.5"], SINGLE_LABEL),
    ([{"score": 1}, {"score": 2}], None, REGRESSION),
    ([{"score": 1}, {"score": "high"}], None, SINGLE_LABEL),
    ([{"labels": ["a"]}, {"labels": []}], None, MULTI_LABEL),
    ([{"label": ["a"]}, {"label": []}], None, MULTI_LABEL),
    ([{"a": 1, "b": 0}], ["a", "b"], MULTI_LABEL),
    ([{"a": 1, "b": 0}], None, SINGLE_LABEL),
    ([], None, SINGLE_LABEL),
]


@pytest.mark.parametrize(("rows", "labels", "wanted"), FOUND, ids=str)
def test_rows_tell_the_problem(tmp_path: Path, rows: list[Any], labels: Any, wanted: str) -> None:
    write(tmp_path / "r.jsonl", [{"text": "x", **row} for row in rows])
    sources = [Source(path="r.jsonl")]
    assert problem_type(get_task("text-classification"), sources, tmp_path, labels) == wanted
    assert problem_type(get_task("fill-mask"), sources, tmp_path, labels) is None


def test_columns_of_other_names_are_seen_too(tmp_path: Path) -> None:
    write(tmp_path / "r.jsonl", [{"body": "x", "topics": ["a"]}])
    sources = [Source(path="r.jsonl", columns={"text": "body", "labels": "topics"})]
    assert problem_type(get_task("text-classification"), sources, tmp_path) == MULTI_LABEL


def test_a_task_is_asked_for_a_problem_that_it_has_not() -> None:
    with pytest.raises(RecipeError, match="fill-mask has no problem type regression"):
        get_task("fill-mask", "regression")
    assert get_task("text-classification", SINGLE_LABEL).classifies


@pytest.mark.parametrize(
    "values",
    [
        {"labels": ["cards", "billing"]},
        {"label": ["billing", "cards"]},
        {"labels": [1, 0, 0]},
        {"billing": 1, "cards": "1", "loans": 0.0},
        {"billing": True, "cards": 1, "loans": False},
    ],
    ids=str,
)
def test_labels_are_names_ids_or_columns(values: dict[str, Any]) -> None:
    row = encoded("multi", **values)
    assert row.fields["target"] == [1.0, 1.0, 0.0] and row.label is None
    assert row.fields["reference"] == "billing, cards"


def test_a_comma_in_a_name_is_shown_as_a_semicolon() -> None:
    row = encoded("multi", EncodeOptions(labels=("a, b", "c")), labels=["a, b", "c"])
    assert row.fields["reference"] == "a; b, c"


@pytest.mark.parametrize("values", [{"label": 2.5}, {"score": 2.5}, {"label": "2.5"}, {"label": 2.5, "score": 9}])
def test_a_number_is_a_label_or_a_score(values: dict[str, Any]) -> None:
    row = encoded("regression", **values)
    assert row.fields["target"] == [2.5] and row.fields["reference"] == "2.5" and row.label is None


BAD: list[tuple[str, dict[str, Any], str, str]] = [
    ("multi", {"labels": "cards"}, "labels", "no list of labels"),
    ("multi", {"label": "cards"}, "label", "no list of labels"),
    ("multi", {}, "labels", "has no labels"),
    ("multi", {"labels": ["cat"]}, "labels", "no known label"),
    ("multi", {"billing": 2, "cards": 0, "loans": 0}, "billing", "neither 0 nor 1"),
    ("multi", {"billing": None, "cards": 0, "loans": 0}, "billing", "neither 0 nor 1"),
    ("regression", {"label": "high"}, "label", "is no number"),
    ("regression", {"score": math.nan}, "score", "is no number"),
    ("regression", {"label": True}, "label", "is no number"),
    ("regression", {}, "label", "has no number"),
]


@pytest.mark.parametrize(("kind", "values", "field", "reason"), BAD, ids=str)
def test_bad_rows_say_what_is_wrong(kind: str, values: dict[str, Any], field: str, reason: str) -> None:
    with pytest.raises(RowProblem) as caught:
        encoded(kind, **values)
    assert caught.value.field == field and reason in caught.value.reason and caught.value.remedy


# -- losses and metrics ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["multi", "regression"])
def test_losses_are_transformers_own(kind: str) -> None:
    of = task(kind)
    net = tiny.bert_classifier(labels=3 if kind == "multi" else 1).eval()
    net.config.problem_type = of.problem_type
    records = [Record(r, id=str(i), source="s") for i, r in enumerate(texts(6, kind))]
    rows = [of.encode(r, READER, OPTIONS) for r in records]
    batch = of.collate(rows)
    with torch.no_grad():
        ours = of.loss(of.forward(net, batch), batch).value
        targets = batch.fields["targets"] if kind == "multi" else batch.fields["targets"][:, 0]
        theirs = net(**batch.inputs, labels=targets).loss
    assert ours.shape == (6,) and ours.mean().item() == pytest.approx(theirs.item(), abs=1e-5)


def results(pairs: list[tuple[str, str]]) -> list[RowResult]:
    return [RowResult(id=str(i), answer=a, reference=b, score=float(a == b)) for i, (a, b) in enumerate(pairs)]


@pytest.mark.parametrize("seed", range(10))
def test_labels_are_counted_as_scikit_learn_counts_them(seed: int) -> None:
    rng = np.random.default_rng(seed)
    said, right = (rng.random((12, 4)) < 0.4 for _ in range(2))
    right[0], said[1] = True, True  # each label occurs
    names = np.array(["a", "b b", "c", "d"])
    rows = results([(", ".join(names[s]), ", ".join(names[r])) for s, r in zip(said, right, strict=True)])
    for average, ours in (("micro", several.f1_micro), ("macro", several.f1_macro)):
        assert ours(rows) == pytest.approx(sk.f1_score(right, said, average=average, zero_division=1))
    assert several.accuracy(rows) == pytest.approx(1 - sk.hamming_loss(right, said))
    each = sk.f1_score(right, said, average=None, zero_division=1)
    assert several.f1_by_label(rows) == pytest.approx(dict(zip(names.tolist(), each.tolist(), strict=True)))
    exact = sum(r.score for r in rows) / len(rows)
    assert exact == pytest.approx(sk.accuracy_score(right, said))


def test_rows_without_labels_are_right_where_none_is_said() -> None:
    rows = results([("", "")])
    assert several.f1_micro(rows) == several.f1_macro(rows) == several.accuracy(rows) == 1.0
    many = results([(str(i), str(i)) for i in range(several.SHOWN + 1)])
    assert several.f1_by_label(many) == {} and len(several.f1_by_label(many[:-1])) == several.SHOWN


def test_numbers_are_compared_as_scipy_and_scikit_learn_compare_them() -> None:
    rng = np.random.default_rng(0)
    right = rng.normal(size=30).round(1)
    said = right + rng.normal(size=30)
    rows = results([(f"{a:.9g}", f"{b:.9g}") for a, b in zip(said, right, strict=True)])
    assert numeric.pearson(rows) == pytest.approx(stats.pearsonr(said, right).statistic)
    assert numeric.spearman(rows) == pytest.approx(stats.spearmanr(said, right).statistic)
    assert numeric.r2(rows) == pytest.approx(sk.r2_score(right, said))
    mse = np.mean([numeric.squared_error(r.answer, r.reference) for r in rows])
    assert mse == pytest.approx(sk.mean_squared_error(right, said))
    alike = results([("1", "2"), ("1", "3")])
    assert math.isnan(numeric.pearson(alike)) and math.isnan(numeric.spearman(alike))
    assert math.isnan(numeric.r2(results([("1", "2"), ("2", "2")])))


@pytest.mark.parametrize(
    ("kind", "metric"),
    [
        ("multi", "accuracy"),
        ("multi", "f1_macro"),
        ("multi", "mse"),
        ("multi", "exact_match"),
        ("regression", "accuracy"),
        ("regression", "multilabel_f1_micro"),
        ("regression", "pair_accuracy"),
        ("regression", "mean_token_accuracy"),
    ],
)
def test_metrics_of_other_rows_are_refused(kind: str, metric: str) -> None:
    with pytest.raises(RecipeError) as caught:
        check_metric(metric, task(kind))
    assert "metric: auto" in str(caught.value)
    with pytest.raises(RecipeError):
        check_metric(task(kind).default_metric([]), get_task("text-classification"))


# -- the probe -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
def test_a_probe_of_numbers_is_ridge_regression(bias: bool) -> None:
    rng = np.random.default_rng(1)
    x, w = rng.normal(2, [1, 5, 0.1], (60, 3)), np.array([1.0, -0.5, 3.0])
    y = x @ w + 4 * bias + 0.1 * rng.normal(size=60)
    probe = linear_probe.fit_targets(torch.tensor(x), [[v] for v in y.tolist()], regression=True, bias=bias)
    scale = np.sqrt(np.square(x - x.mean(0) * bias).mean(0))
    plain = Ridge(alpha=1 / probe.c, fit_intercept=bias).fit((x - x.mean(0) * bias) / scale, y)
    assert probe.logits(torch.tensor(x))[:, 0].numpy() == pytest.approx(
        plain.predict((x - x.mean(0) * bias) / scale), rel=1e-6
    )
    assert probe.rows == 60 and (bias or not probe.bias.any())


def test_a_probe_of_labels_is_a_logistic_regression_each() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(0, 1, (80, 4))
    y = np.stack([x[:, 0] > 0, x[:, 1] + x[:, 2] > 1, np.zeros(80)], 1).astype(float)
    probe = linear_probe.fit_targets(torch.tensor(x), y.tolist(), regression=False)
    z = (x - x.mean(0)) / x.std(0)
    for k in (0, 1):
        plain = LogisticRegression(C=probe.c, max_iter=500, tol=1e-3).fit(z, y[:, k])
        assert probe.logits(torch.tensor(x))[:, k].numpy() == pytest.approx(plain.decision_function(z), abs=1e-6)
    assert (probe.logits(torch.tensor(x))[:, 2] < 0).all()  # no row has the last label
    assert probe.c == min(
        linear_probe.STRENGTHS, key=lambda c: _held_out(x, y, c)
    )  # the least loss on rows that were not learnt


def _held_out(x: np.ndarray, y: np.ndarray, c: float) -> float:
    order = np.random.default_rng(0).permutation(len(y))
    z, y, fold, total = ((x - x.mean(0)) / x.std(0))[order], y[order], np.arange(len(y)) % 3, 0.0
    for k in range(3):
        for v in range(2):
            plain = LogisticRegression(C=c, max_iter=500, tol=1e-3).fit(z[fold != k], y[fold != k, v])
            total += sk.log_loss(y[fold == k, v], plain.predict_proba(z[fold == k])[:, 1], normalize=False)
    return total


def test_what_is_always_said() -> None:
    rows = [[1.0, 0.0], [1.0, 1.0], [1.0, 0.0]]
    assert linear_probe.always(rows, regression=False).tolist() == [1.0, -1.0]
    assert linear_probe.always([[1.0], [4.0]], regression=True).tolist() == [2.5]


# -- runs ------------------------------------------------------------------------------------------------------------


def recipe(folder: Path, kind: str, **changes: Any) -> Recipe:
    tiny.bert_classifier(labels=2).save_pretrained(folder / "base")
    READER.save_pretrained(folder / "base")
    write(folder / "train.jsonl", texts(40, kind))
    write(folder / "test.jsonl", texts(12, kind, 1))
    tree = {
        "model": "./base",
        "task": "text-classification",
        "data": {"train": "train.jsonl", "eval": "test.jsonl", "max_length": 48},
        "methods": ["full"],
        "train": {"learning_rate": 1e-3, "batch_tokens": 256, "precision": "float32", "threads": 1, "device": "cpu"},
        "budget": {"steps": 6},
        "measurement": {"strengths": [1]},
    }
    (folder / "r.yaml").write_text(json.dumps(tree))
    return Recipe.load(folder / "r.yaml", [f"{k.replace('__', '.')}={json.dumps(v)}" for k, v in changes.items()])


BESIDE = {
    "multi": ["multilabel_f1_macro", "multilabel_exact_match", "multilabel_accuracy"],
    "regression": ["pearson", "spearman", "r2"],
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["multi", "regression"])
def test_a_run_of_it(tmp_path: Path, kind: str) -> None:
    made = recipe(tmp_path, kind, methods=[{"lora": {"rank": 4}}] if kind == "multi" else ["full"])
    run(made, tmp_path / "out", quiet=True)
    report, target = Report.load(tmp_path / "out"), Report.load(tmp_path / "out").target
    assert target is not None and target.before is not None and target.after is not None
    assert target.metric == task(kind).default_metric([]) and target.fresh_head
    assert [o.metric for o in target.others if not o.name] == BESIDE[kind]
    assert target.direction == ("higher" if kind == "multi" else "lower")
    probe = target.linear_probe
    assert probe is not None and probe.before is not None and probe.difference is not None
    assert target.commonest is not None and report.drift is not None and report.drift.measure == "1-cka"
    assert any(f"read as {task(kind).problem_type}" in note for note in report.notes)
    page = (tmp_path / "out" / "report.html").read_text()
    always = {"multi": "always what most rows have", "regression": "always the training rows"}[kind]
    assert always in page
    rows = list(read_rows(tmp_path / "out" / "rows.jsonl"))
    learnt, asked = texts(40, kind), texts(12, kind, 1)
    if kind == "regression":  # the mean, counted here
        mean = np.mean([r["label"] for r in learnt])
        assert target.commonest.value == pytest.approx(np.mean([(r["label"] - mean) ** 2 for r in asked]), rel=1e-4)
        assert report.target is not None and target.unit == "squared points"
    export(tmp_path / "out", tmp_path / "model")
    net = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model", local_files_only=True).eval()
    reader = AutoTokenizer.from_pretrained(tmp_path / "model", local_files_only=True)
    assert net.config.problem_type == task(kind).problem_type
    for row, wrote in zip(rows, asked, strict=True):
        with torch.no_grad():
            logits = net(**reader(wrote["text"], return_tensors="pt")).logits[0]
        if kind == "multi":
            assert row.tuned == ", ".join(net.config.id2label[i] for i in range(3) if logits[i].sigmoid() > 0.5)
        else:
            assert float(row.tuned) == pytest.approx(float(logits[0]), abs=1e-3)
    pair = measure(Request([str(tmp_path / "out")], [str(tmp_path / "model")], data=[str(tmp_path / "test.jsonl")]))
    assert pair.target is not None and pair.target.metric == target.metric
    assert pair.target.after is not None and pair.target.after.value == pytest.approx(target.after.value, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["multi", "regression"])
def test_a_new_head_starts_at_the_probe_unless_it_is_to_be_drawn(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_start, "NOISE", 0.0)  # these features are all but alike: test_head_start.py
    probed, drawn = (
        run(recipe(tmp_path, kind, train__head=head, train__learning_rate=1e-9), tmp_path / head, quiet=True).report
        for head in ("probe", "random")
    )
    assert probed.target is not None and drawn.target is not None and probed.target.linear_probe is not None
    assert probed.target.after.value == pytest.approx(probed.target.linear_probe.before.value, abs=1e-4)
    assert drawn.target.after.value == pytest.approx(drawn.target.before.value, abs=1e-4)


@pytest.mark.slow
def test_pictures_have_problems_too(tmp_path: Path) -> None:
    tiny.vit(labels=2).save_pretrained(tmp_path / "base")
    rng, rows = np.random.default_rng(0), []
    for i in range(16):
        pixels = np.zeros((16, 16, 3), np.uint8) + np.array([200 * (i % 2), rng.integers(40), 200 * (i % 3 == 0)])
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{i}.png")
        rows.append({"image": f"{i}.png", "labels": [*(["red"] * (i % 2)), *(["blue"] * (i % 3 == 0))]})
    write(tmp_path / "many.jsonl", rows)
    write(tmp_path / "number.jsonl", [{"image": r["image"], "score": len(r["labels"]) + 0.5} for r in rows])
    for name, metric in (("many", "multilabel_f1_micro"), ("number", "mse")):
        tree = {
            "model": str(tmp_path / "base"),
            "task": "image-classification",
            "data": {"train": str(tmp_path / f"{name}.jsonl"), "eval": str(tmp_path / f"{name}.jsonl")},
            "methods": ["full"],
            "budget": {"steps": 2},
            "train": {"learning_rate": 1e-3, "batch_tokens": 8, "precision": "float32", "threads": 1, "device": "cpu"},
            "measurement": {"strengths": [1]},
        }
        (tmp_path / f"{name}.yaml").write_text(json.dumps(tree))
        report = run(Recipe.load(tmp_path / f"{name}.yaml"), tmp_path / name, quiet=True).report
        assert report.target is not None and report.target.metric == metric


@pytest.mark.slow
def test_the_recipe_may_say_what_rows_are(tmp_path: Path) -> None:
    made = recipe(tmp_path, "regression", data__problem_type="single_label_classification")
    problems = check_recipe(made).report.problems
    assert problems and "2.25 is no class id" in problems[0].reason
    write(tmp_path / "train.jsonl", [{"text": str(i), "label": i % 3} for i in range(20)])
    write(tmp_path / "test.jsonl", [{"text": str(i), "label": i % 3} for i in range(20, 25)])
    assert get_task("text-classification").default_metric([]) == "accuracy"
    for kind, metric in ((None, "accuracy"), ("regression", "mse")):
        changed = recipe_of(tmp_path, kind)
        report = run(changed, tmp_path / str(kind), quiet=True).report
        assert report.target is not None and report.target.metric == metric


def test_a_stage_has_no_problem_of_its_own(tmp_path: Path) -> None:
    made = recipe(
        tmp_path, "multi", stages=[{"name": "a", "methods": ["full"], "data": {"problem_type": "regression"}}]
    )
    with pytest.raises(RecipeError, match="'problem_type' holds for the whole run"):
        run(made, tmp_path / "out", quiet=True)


def recipe_of(folder: Path, kind: str | None) -> Recipe:
    sets = [f'data.problem_type="{kind}"'] if kind else []
    return Recipe.load(folder / "r.yaml", [*sets, "budget.steps=1"])


@pytest.mark.parametrize(
    ("kind", "methods", "says"),
    [
        ("multi", ["unipt"], "does not serve the task text-classification (multi_label_classification)"),
        ("multi", ["full", "stablemax"], "gives a likelihood of each label by itself"),
        ("regression", ["full", "stablemax"], "gives one number a text"),
    ],
)
def test_methods_of_classes_are_refused(tmp_path: Path, kind: str, methods: list[Any], says: str) -> None:
    made = recipe(tmp_path, kind, methods=methods)
    with pytest.raises(MethodError) as caught:
        run(made, tmp_path / "out", quiet=True)
    assert says in str(caught.value) and says in str(check_recipe(made).report.errors[0])


def test_a_check_says_what_rows_are_read_as(tmp_path: Path) -> None:
    found = check_recipe(recipe(tmp_path, "multi"))
    assert found.ok and any("read as multi_label_classification" in c for c in found.report.cautions)


@pytest.mark.parametrize("kind", ["multi", "regression"])
def test_a_first_recipe_is_for_it(tmp_path: Path, kind: str) -> None:
    write(tmp_path / "rows.jsonl", texts(30, kind))
    assert "task: text-classification" in starter("nano-encoder", tmp_path / "rows.jsonl")


def _f1(pairs: Any) -> float:
    said, right = ([[label in p[k].split(", ") for label in LABELS] for p in pairs] for k in (0, 1))
    return float(sk.f1_score(right, said, average="micro", zero_division=1))


def example(kind: str) -> TaskExample:
    multi = kind == "multi"
    return TaskExample(
        model=lambda: tiny.bert_classifier(labels=3 if multi else 1),
        reader=READER,
        rows=texts(12, kind),
        bad={
            "nothing": ({"text": "a", "labels" if multi else "label": "many"}, "labels" if multi else "label"),
            "an empty text": ({"text": " ", "labels" if multi else "label": [] if multi else 1.5}, "text"),
        },
        labels=LABELS if multi else None,
        right=(lambda row: ", ".join(row["labels"])) if multi else (lambda row: f"{row['label']:g}"),
        figure=_f1 if multi else lambda pairs: sum((float(a) - float(b)) ** 2 for a, b in pairs) / len(pairs),
    )


CHECKS = [
    c for kind in ("multi", "regression") for c in checks_of_task("text-classification", example(kind), task(kind))
]


@pytest.mark.parametrize("check", CHECKS, ids=[f"{i}-{c}" for i, c in enumerate(CHECKS)])
def test_conformance(check: Any) -> None:
    check()
