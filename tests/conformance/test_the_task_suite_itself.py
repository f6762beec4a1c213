"""Each check of tasks can fail: tasks that break a rule on purpose are caught, by the check that is meant to."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import lru_cache
from typing import Any, ClassVar

import pytest
import torch

from tunewright.conformance import check_task, checks_of_task, task_runs
from tunewright.conformance.task_case import TaskCase
from tunewright.conformance.task_examples import example_of
from tunewright.contract.batch import Outputs
from tunewright.errors import MethodError, RecipeError
from tunewright.measure import target
from tunewright.tasks.fill_mask import FillMask
from tunewright.tasks.text_classification import TextClassification
from tunewright.tasks.text_generation import TextGeneration


class NeverTheSame(TextClassification):
    def encode(self, record, tokenizer, options):
        row = super().encode(record, tokenizer, options)
        return row.replace(input_ids=[*row.input_ids, 7 + random.Random().randrange(20)])


class OtherwiseInMany(TextClassification):
    def encode_many(self, records, tokenizer, options):
        return [
            r if isinstance(r, Exception) else r.replace(label=0)
            for r in super().encode_many(records, tokenizer, options)
        ]


class WritesIntoRecords(TextClassification):
    def encode(self, record, tokenizer, options):
        row = super().encode(record, tokenizer, options)
        record["text"] = record["text"].strip() + "."
        return row


class AnyError(TextClassification):
    def encode(self, record, tokenizer, options):
        try:
            return super().encode(record, tokenizer, options)
        except Exception as error:
            raise ValueError(str(error)) from error


class OtherField(TextClassification):
    def encode(self, record, tokenizer, options):
        try:
            return super().encode(record, tokenizer, options)
        except Exception as error:
            error.field = "row"
            raise


class KeepsTuples(TextClassification):
    def encode(self, record, tokenizer, options):
        row = super().encode(record, tokenizer, options)
        return row.replace(fields={**row.fields, "places": {1: "a key that JSON makes text"}})


class WholeWeights(TextClassification):
    def collate(self, rows, packed=False, *, epochs=None, seed=0):
        batch = super().collate(rows, packed, epochs=epochs, seed=seed)
        return batch.replace(weights=batch.weights.long())


class LosesEpochs(TextClassification):
    def collate(self, rows, packed=False, *, epochs=None, seed=0):
        return super().collate(rows, packed, seed=seed)


class DoubleWeights(TextClassification):
    def collate(self, rows, packed=False, *, epochs=None, seed=0):
        batch = super().collate(rows, packed, epochs=epochs, seed=seed)
        return batch.replace(weights=2 * batch.weights)


class DrawsByPlace(FillMask):
    def collate(self, rows, packed=False, *, epochs=None, seed=0):
        named = [r.replace(id=f"{i}") for i, r in enumerate(rows)]
        batch = super().collate(named, packed, epochs=epochs, seed=seed)
        return batch.replace(row_ids=[r.id for r in rows])


class NoMask(TextClassification):
    def forward(self, model, batch, *, hidden=False):
        inputs = {**batch.inputs, "attention_mask": torch.ones_like(batch.inputs["attention_mask"])}
        return super().forward(model, batch.replace(inputs=inputs), hidden=hidden)


class OtherLogProbs(TextClassification):
    def forward(self, model, batch, *, hidden=False):
        out = super().forward(model, batch, hidden=hidden)
        again = {"features": out.features, "head": out.head, "hidden": out.hidden}
        logits = out.logits
        wrong = torch.log_softmax(2 * logits, -1).gather(-1, batch.labels[:, None])[:, 0]
        return Outputs(lambda: logits, batch.labels, log_probs=lambda: wrong, **again)


class AlwaysHidden(TextClassification):
    def forward(self, model, batch, *, hidden=False):
        return super().forward(model, batch, hidden=True)


class NoGradient(TextClassification):
    def forward(self, model, batch, *, hidden=False):
        out = super().forward(model, batch, hidden=hidden)
        leaf = (0.0 * next(model.parameters()).sum()).exp()
        return Outputs(out.logits.detach() * leaf, batch.labels, features=out.features, head=out.head)


class NoUnit(TextClassification):
    unit: ClassVar[str] = " "


class NotLikeIt(TextClassification):
    """Says that it is like pictures' classes."""

    kind: ClassVar[str] = "image-classification"


class OfNoKind(TextClassification):
    """Says that it is like what is not there."""

    kind: ClassVar[str] = "text-classificaton"


class TheOthersAnswer(TextGeneration):
    def encode(self, record, tokenizer, options):
        row = super().encode(record, tokenizer, options)
        return row.replace(fields={**row.fields, "reference": "neither"})


BROKEN: list[tuple[str, type, str, str]] = [
    ("text-classification", NeverTheSame, "encoding repeats", "encoded twice"),
    ("text-classification", OtherwiseInMany, "encoding repeats", "others than encode"),
    ("text-classification", WritesIntoRecords, "encoding repeats", "changes the record|encode"),
    ("text-classification", AnyError, "bad rows are named", "ValueError, not RowProblem"),
    ("text-classification", OtherField, "bad rows are named", "names 'row'"),
    ("text-classification", KeepsTuples, "rows survive the cache", "JSON"),
    ("text-classification", WholeWeights, "batches have the shapes promised", "weights are fp32"),
    ("text-classification", LosesEpochs, "batches have the shapes promised", "epochs are lost"),
    ("text-classification", DoubleWeights, "what counts is what rows say", "weigh 2, and the row says 1"),
    ("fill-mask", DrawsByPlace, "draws are keyed", "beside other rows"),
    ("text-classification", NoMask, "alone as beside others", "padded beside others"),
    ("text-classification", OtherLogProbs, "outputs fit one another", "log_probs"),
    ("text-classification", AlwaysHidden, "outputs fit one another", "nobody asked for"),
    ("text-classification", NoGradient, "a gradient reaches the model", "reaches"),
    ("text-classification", NoUnit, "declarations are whole", "no unit"),
    ("text-classification", OfNoKind, "declarations are whole", "no built-in task 'text-classificaton'"),
    ("text-classification", NotLikeIt, "it is what its kind says", "reads_files"),
    ("text-generation", TheOthersAnswer, "what is right is shown as right", "neither"),
]


def run_check(name: str, check: str, example: Any = None, task: Any = None) -> None:
    (bound,) = [b for b in checks_of_task(name, example, task) if b.check.name == check]
    bound()


@pytest.mark.parametrize(("name", "task", "check", "says"), BROKEN, ids=[t.__name__ for _, t, _, _ in BROKEN])
def test_a_broken_task_is_caught(name, task, check, says):
    with pytest.raises(AssertionError, match=says):
        run_check(name, check, task=task())
    run_check(name, "declarations are whole")  # the whole one passes


def test_results_in_another_order_are_caught(monkeypatch):
    real = target.class_results
    monkeypatch.setattr(target, "class_results", lambda c, t, rows, logits: reversed(list(real(c, t, rows, logits))))
    with pytest.raises(AssertionError, match="another order"):
        run_check("text-classification", "measuring keeps the order")


def test_a_metric_that_counts_otherwise_is_caught():
    example = replace(example_of("text-classification"), figure=lambda pairs: 0.123)
    with pytest.raises(AssertionError, match="counted otherwise 0.123"):
        run_check("text-classification", "the metric counts answers", example)


def test_a_metric_that_is_never_full_is_caught(monkeypatch):
    monkeypatch.setitem(
        target.METRICS, "accuracy", replace(target.METRICS["accuracy"], proportion=False, figure=lambda rows: 0.5)
    )
    with pytest.raises(AssertionError, match="sure of the labels"):
        run_check("text-classification", "certain outputs score in full")


def test_other_answers_than_the_models_are_caught(monkeypatch):
    monkeypatch.setattr(target, "greedy", lambda model, reader, prompts, *more, **how: [[9, 10]] * len(prompts))
    with pytest.raises(AssertionError, match="generate writes"):
        run_check("text-generation", "answers are the model's own")


def test_rows_of_one_length_are_no_example():
    example = example_of("text-classification")
    same = replace(example, rows=[{"text": "red", "label": kind} for kind in ("warm", "cold") * 4])
    with pytest.raises(AssertionError, match="one length"):
        run_check("text-classification", "rows differ in length", same)


@lru_cache
def ran() -> TaskCase:
    case = TaskCase("text-classification", example_of("text-classification"))
    task_runs.a_run_learns(case)
    return case


def test_what_a_run_must_do_is_caught_where_it_does_not():
    """The run's own files are spoilt, one by one, and put back."""
    folder = ran().folder / "out"
    for name, check, old, new, says in (
        ("rows.jsonl", task_runs.what_goes_out_comes_back, '"tuned": "', '"tuned": "x', "answers otherwise"),
        ("report.json", task_runs.the_base_is_measured, '"n": 3', '"n": 2', "there are 3|signature|hash"),
        ("metrics.jsonl", task_runs.a_run_learns, '"loss": ', '"loss": 1.0, "was": ', "from 1 to 1"),
    ):
        text = (folder / name).read_text()
        spoilt = text.replace(old, new)
        assert spoilt != text
        check(ran())
        (folder / name).write_text(spoilt)
        try:
            with pytest.raises(Exception, match=says):
                check(ran())
        finally:
            (folder / name).write_text(text)


def test_a_good_row_is_no_bad_one():
    example = replace(example_of("text-classification"), bad={"fine": ({"text": "red", "label": "warm"}, "label")})
    for check in ("bad rows are named", "bad rows are refused alike"):
        with pytest.raises(AssertionError, match="fine: "):
            run_check("text-classification", check, example)


class Like(TextClassification):
    """Classes of texts under another name, which methods that name text-classification serve."""

    kind: ClassVar[str] = "text-classification"


@pytest.mark.slow
def test_a_task_of_a_kind_passes_whole():
    names = check_task("text-classification", task=Like())
    assert "it is what its kind says" in names and "what goes out comes back" in names and len(names) > 18


def test_a_task_without_an_example_and_no_task_are_refused():
    with pytest.raises(RecipeError, match="no task is called"):
        checks_of_task("no-such-task", example_of("fill-mask"))
    with pytest.raises(MethodError, match="no example for the task"):
        checks_of_task("no-such-task")
