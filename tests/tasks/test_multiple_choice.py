"""Choices of unequal number: rows as data sets have them, loss and answers as transformers' own forward gives them, and
whole runs.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForMultipleChoice, AutoTokenizer, BertConfig, BertForMultipleChoice

from tests import tiny
from tunewright.contract.records import Record, RowProblem
from tunewright.contract.task import EncodeOptions
from tunewright.data.truncate import fit_length, trained_tokens
from tunewright.errors import RecipeError
from tunewright.finished.export import export
from tunewright.measure.metrics import check_metric
from tunewright.measure.rows import read_rows
from tunewright.paired.measuring import measure
from tunewright.paired.request import Request
from tunewright.planning.check import check_recipe
from tunewright.planning.init import starter
from tunewright.recipe import Recipe
from tunewright.report.schema import Report
from tunewright.runs.run import resume, run
from tunewright.tasks import get_task
from tunewright.tasks.multiple_choice import MOST

TASK = get_task("multiple-choice")
READER = tiny.tokenizer(encoder=True, chat=False)
CHOICES = ["a lost card", "a loan", "the town"]


def encoded(options: EncodeOptions | None = None, **values: Any) -> Any:
    row = {"question": "what was lost", "choices": CHOICES, **values}
    record = Record({k: v for k, v in row.items() if v is not ...}, id="r", source="s")
    return TASK.encode(record, READER, options or EncodeOptions())


def model(seed: int = 0, **changes: Any) -> BertForMultipleChoice:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 0.3}
    config = BertConfig(vocab_size=len(READER), **sizes, **still, num_labels=1, pad_token_id=0, **changes)
    return BertForMultipleChoice(config).eval()


ARC = {"text": CHOICES, "label": ["1", "2", "3"]}
ANSWERED = [
    ({"label": 1}, 1),
    ({"label": "1"}, 1),
    ({"answerKey": "B"}, 1),
    ({"answer": "a loan"}, 1),
    ({"choices": ARC, "answerKey": "2"}, 1),
    ({"choices": {"text": CHOICES, "label": ["A", "B", "C"]}, "answerKey": "C"}, 2),
    ({"choices": {"text": CHOICES}, "answer": 0}, 0),
    ({"choices": ..., "endings": CHOICES, "label": "2"}, 2),
    ({"choices": ..., "ending0": "a", "ending1": "b", "label": 0}, 0),
    ({"choices": ["2", "4"], "label": "4"}, 1),
]


@pytest.mark.parametrize(("values", "place"), ANSWERED, ids=str)
def test_answers_are_read_in_every_form_that_data_sets_have(values: dict[str, Any], place: int) -> None:
    row = encoded(**values)
    assert row.fields["target"] == place and row.fields["reference"] == row.fields["names"][place]
    assert trained_tokens(row) == 1 and row.label is None


@pytest.mark.parametrize(
    ("values", "pairs"),
    [
        ({}, [("what was lost", c) for c in CHOICES]),
        ({"context": "Ada wrote."}, [("Ada wrote.", f"what was lost {c}") for c in CHOICES]),
        ({"question": ..., "sent1": "Ada wrote.", "sent2": "She"}, [("Ada wrote.", f"She {c}") for c in CHOICES]),
        ({"question": ..., "ctx": "Ada wrote."}, [("Ada wrote.", c) for c in CHOICES]),
    ],
    ids=str,
)
def test_each_choice_is_read_beside_the_question(values: dict[str, Any], pairs: list[tuple[str, str]]) -> None:
    row = encoded(**values, label=0)
    alone = [READER(*pair)["input_ids"] for pair in pairs]
    assert row.input_ids == [i for ids in alone for i in ids] and row.fields["lengths"] == [len(a) for a in alone]


def test_the_template_asks_the_question() -> None:
    row = encoded(EncodeOptions(template="Q: {question}"), label=0)
    assert row.input_ids[: row.fields["lengths"][0]] == READER("Q: what was lost", CHOICES[0])["input_ids"]


BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "one choice": ({"choices": ["a"], "label": 0}, "choices", "has 1 choices"),
    "too many": ({"choices": [str(i) for i in range(MOST + 1)], "label": 0}, "choices", f"has {MOST + 1} choices"),
    "no texts": ({"choices": ["a", 3], "label": 0}, "choices", "no list of texts"),
    "no choices": ({"choices": ..., "label": 0}, "choices", "has 0 choices"),
    "fewer labels": ({"choices": {"text": CHOICES, "label": ["A"]}, "answerKey": "A"}, "choices", "1 labels for 3"),
    "beyond": ({"label": 3}, "label", "'3' is none of the choices"),
    "below": ({"label": -1}, "label", "none of the choices"),
    "another letter": ({"answerKey": "D"}, "answerKey", "none of the choices"),
    "no own label": ({"choices": ARC, "answerKey": "0"}, "answerKey", "none of the choices"),
    "nothing": ({"label": None}, "label", "none of the choices"),
    "no answer": ({}, "answerKey", "does not say which is right"),
    "a truth value": ({"label": True}, "label", "none of the choices"),
    "no question": ({"question": " ", "label": 0}, "question", "missing or empty"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_rows_say_what_is_wrong(case: str) -> None:
    values, field, reason = BAD[case]
    with pytest.raises(RowProblem) as caught:
        encoded(**values)
    assert caught.value.field == field and reason in caught.value.reason and caught.value.remedy


def test_a_row_with_a_long_choice_is_left_out_and_never_cut() -> None:
    row = encoded(label=0)
    longest = max(row.fields["lengths"])
    assert fit_length(row, longest, "split") == [row] and len(row.input_ids) > longest
    assert fit_length(row, longest - 1, "split") == fit_length(row, longest - 1, "auto") == []
    with pytest.raises(RowProblem, match=f"{longest} tokens"):
        fit_length(row, longest - 1, "fail")


def test_loss_and_answers_are_transformers_own_for_rows_of_any_number_of_choices() -> None:
    net = model()
    rows = [encoded(choices=CHOICES[:n], label=n - 1, question=q) for n, q in ((2, "which"), (3, "what was lost"))]
    batch = TASK.collate(rows)
    with torch.no_grad():
        out = TASK.forward(net, batch)
        values = TASK.loss(out, batch).value
        for k, row in enumerate(rows):
            question = ("which", "what was lost")[k]
            names = row.fields["names"]
            read = READER([question] * len(names), names, padding=True, return_tensors="pt")
            given = {n: v[None] for n, v in read.items() if n in ("input_ids", "attention_mask", "token_type_ids")}
            theirs = net(**given, labels=torch.tensor([row.fields["target"]]))
            assert values[k].item() == pytest.approx(theirs.loss.item(), abs=1e-5)
            assert out.logits[k, : len(names)].tolist() == pytest.approx(theirs.logits[0].tolist(), abs=1e-5)
            assert TASK.predict(out, batch, rows)[k][0] == names[int(theirs.logits[0].argmax())]
    assert out.logits.softmax(-1)[0, 2:].sum() == 0 and TASK.chance(rows[0]) == 0.5


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def rows_of(count: int, seed: int = 0) -> list[dict[str, Any]]:
    rng, out = random.Random(seed), []
    for i in range(count):
        choices = rng.sample(["a loan", "the town", "a branch", "the phone"], rng.randint(1, 3))
        right = rng.randrange(len(choices) + 1)
        choices.insert(right, "a lost card")
        out.append({"question": f"{i} what is it", "choices": choices, "label": right})
    return out


def recipe(folder: Path, **changes: Any) -> Recipe:
    model().save_pretrained(folder / "base")
    READER.save_pretrained(folder / "base")
    write(folder / "train.jsonl", rows_of(24))
    write(folder / "test.jsonl", rows_of(10, 1))
    tree = {
        "model": "./base",
        "task": "multiple-choice",
        "data": {"train": "train.jsonl", "eval": "test.jsonl", "max_length": 48},
        "methods": ["full"],
        "train": {"learning_rate": 5e-3, "batch_tokens": 256, "precision": "float32", "threads": 1, "device": "cpu"},
        "budget": {"steps": 12},
        "measurement": {"strengths": [1]},
    }
    (folder / "r.yaml").write_text(json.dumps(tree))
    return Recipe.load(folder / "r.yaml", [f"{k.replace('__', '.')}={json.dumps(v)}" for k, v in changes.items()])


@pytest.mark.parametrize(
    "changes",
    [
        {"methods": ["full", "mean-teacher"]},
        {"methods": [{"lora": {"rank": 4}}, "pela"]},
        {"methods": ["full"], "after": [{"wise-ft": {"amount": 0.5}}]},
    ],
    ids=str,
)
def test_a_run_of_it(tmp_path: Path, changes: dict[str, Any]) -> None:
    run(recipe(tmp_path, **changes), tmp_path / "out", quiet=True)
    report = Report.load(tmp_path / "out")
    target, asked = report.target, rows_of(10, 1)
    assert target is not None and target.metric == "choice_accuracy" and target.after is not None
    assert target.commonest is not None
    chance = round(sum(1 / len(r["choices"]) for r in asked)) / len(asked)
    assert target.commonest.value == pytest.approx(chance)
    assert "a choice at random" in (tmp_path / "out" / "report.html").read_text()
    assert report.drift is not None and report.drift.measure == "kl"
    resume(tmp_path / "out", verify=True, quiet=True)
    export(tmp_path / "out", tmp_path / "model")
    net = AutoModelForMultipleChoice.from_pretrained(tmp_path / "model", local_files_only=True).eval()
    reader = AutoTokenizer.from_pretrained(tmp_path / "model", local_files_only=True)
    rows = list(read_rows(tmp_path / "out" / "rows.jsonl"))
    for row, wrote in zip(rows, asked, strict=True):
        names = wrote["choices"]
        read = reader([wrote["question"]] * len(names), names, padding=True, return_tensors="pt")
        with torch.no_grad():
            out = net(input_ids=read["input_ids"][None], attention_mask=read["attention_mask"][None])
        assert row.tuned == names[int(out.logits[0].argmax())] and row.prompt.startswith(wrote["question"])
    pair = measure(Request([str(tmp_path / "base")], [str(tmp_path / "out")]))
    assert pair.task == "multiple-choice" and pair.target is not None and pair.target.after == target.after
    assert pair.drift is not None


def test_a_base_without_a_head_gets_one(tmp_path: Path) -> None:
    run(recipe(tmp_path, model="nano-encoder", budget__steps=1), tmp_path / "out", quiet=True)
    report = Report.load(tmp_path / "out")
    assert report.target is not None and report.target.fresh_head
    assert report.drift is not None and report.drift.measure == "1-cka"


def test_rows_of_one_label_are_no_duplicates_and_equal_ones_are(tmp_path: Path) -> None:
    made = recipe(tmp_path)
    write(tmp_path / "train.jsonl", [*rows_of(6), rows_of(6)[3]])
    found = [n for n in check_recipe(made).report.notices if n.kind == "duplicate"]
    assert [n.where for n in found] == [("train.jsonl:7",)]


@pytest.mark.parametrize(
    "row", [rows_of(1)[0], {"sent1": "a", "sent2": "b", "ending0": "c", "ending1": "d", "label": 0}]
)
def test_init_takes_it_for_choices(tmp_path: Path, row: dict[str, Any]) -> None:
    write(tmp_path / "rows.jsonl", [{**row, "id": i} for i in range(20)])
    text = starter("nano-encoder", tmp_path / "rows.jsonl")
    assert "task: multiple-choice" in text and "- full" in text


@pytest.mark.parametrize("metric", ["accuracy", "squad_f1", "exact_match", "pair_accuracy"])
def test_metrics_of_other_rows_are_refused(metric: str) -> None:
    with pytest.raises(RecipeError):
        check_metric(metric, TASK)
