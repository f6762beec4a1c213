"""Whatever a tokenizer or a task raises about a row, a user reads which row it was and what to do."""

from __future__ import annotations

import json

import pytest

from tests import tiny
from tunewright.contract.records import Record, RowProblem
from tunewright.contract.task import EncodeOptions
from tunewright.data.check import check, write_clean
from tunewright.data.encode import encode_all
from tunewright.data.read import read_all
from tunewright.errors import ModelError
from tunewright.recipe import Source
from tunewright.tasks import get_task

TASK = get_task("text-generation")
HALF = "hi \\ud83d there"
GOOD = '{"prompt": "b", "completion": "fine \\ud83d\\ude00"}'


@pytest.mark.parametrize(
    "row, field",
    [
        ('{"prompt": "' + HALF + '", "completion": "ok"}', "prompt"),
        ('{"prompt": "a", "completion": "' + HALF.upper().replace("\\UD", "\\ud") + '"}', "completion"),
        ('{"text": "a", "label": "' + HALF + '"}', "label"),
        ('{"text": "a", "x": [{"y": "\\ude00"}]}', "x[0].y"),
        ('{"text": "a", "\\ud83d": 1}', "\\ud83d"),
        ('{"messages": [{"role": "user", "content": "' + HALF + '"}]}', "messages[0].content"),
    ],
)
def test_half_a_character_is_a_bad_row_wherever_it_stands(tmp_path, row, field):
    (tmp_path / "rows.jsonl").write_text(f"{GOOD}\n{row}\n")
    (tmp_path / "rows.json").write_text(f"[{GOOD}, {row}]")
    for name in ("rows.jsonl", "rows.json"):
        read = read_all(Source(path=name), tmp_path)
        assert len(read.records) == 1 and [p.where for p in read.problems] == [f"{name}:2"]
        assert read.problems[0].field == field and "surrogate" in read.problems[0].reason
        str(read.problems[0]).encode("utf-8")  # it can be printed


def test_a_clean_copy_leaves_half_a_character_in_quarantine(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "' + HALF + '", "completion": "ok"}\n' + GOOD + "\n")
    groups = {"train": [Source(path="rows.jsonl")]}
    report = check(groups, TASK, tiny.tokenizer(), EncodeOptions(), base=tmp_path)
    assert [p.where for p in report.problems] == ["rows.jsonl:1"]
    write_clean(report, groups, tmp_path / "clean", base=tmp_path)
    kept = [json.loads(line) for line in (tmp_path / "clean" / "train-rows.jsonl").read_text().splitlines()]
    assert kept == [json.loads(GOOD)]
    assert json.loads((tmp_path / "clean" / "quarantine.jsonl").read_text())["where"] == "rows.jsonl:1"


def test_a_record_that_was_never_a_file_is_refused_too():
    with pytest.raises(RowProblem, match="surrogate"):
        TASK.encode(Record({"text": "hi \ud83d there"}, id="r"), tiny.tokenizer(), EncodeOptions())


class Moody:
    """A tokenizer that raises at some texts, as some do at what they were never tried with."""

    def __init__(self, error: Exception):
        self.inner, self.error, self.backend_tokenizer = tiny.tokenizer(), error, None

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def __call__(self, text, **more):
        if "bad" in text:
            raise self.error
        return self.inner(text, **more)


@pytest.mark.parametrize("error", [TypeError("TextEncodeInput must be Union"), OverflowError(""), RuntimeError("a\nb")])
def test_a_tokenizer_that_raises_makes_the_row_bad(tmp_path, error):
    (tmp_path / "rows.jsonl").write_text('{"text": "good"}\n{"text": "bad"}\n{"text": "good again"}\n')
    encoded = encode_all(read_all(Source(path="rows.jsonl"), tmp_path), TASK, Moody(error), EncodeOptions())
    assert len(encoded.rows) == 2 and [p.where for p in encoded.problems] == ["rows.jsonl:2"]
    problem = encoded.problems[0]
    assert "tokenizer" in problem.reason and "\n" not in problem.reason and problem.remedy


def test_what_a_task_raises_is_a_bad_row_and_what_is_said_on_purpose_stays(tmp_path, monkeypatch):
    (tmp_path / "rows.jsonl").write_text('{"text": "good"}\n{"text": "bad"}\n')
    read, own = read_all(Source(path="rows.jsonl"), tmp_path), type(TASK).encode

    def raising(error):
        def encode(self, record, tokenizer, options):
            if record["text"] == "bad":
                raise error
            return own(self, record, tokenizer, options)

        return encode

    monkeypatch.setattr(type(TASK), "encode", raising(KeyError("colour")))
    encoded = encode_all(read, TASK, tiny.tokenizer(), EncodeOptions())
    assert len(encoded.rows) == 1 and "KeyError: 'colour'" in encoded.problems[0].reason
    assert encoded.problems[0].where == "rows.jsonl:2" and encoded.problems[0].remedy
    monkeypatch.setattr(type(TASK), "encode", raising(ModelError("it does not fit")))
    with pytest.raises(ModelError, match="does not fit"):
        encode_all(read, TASK, tiny.tokenizer(), EncodeOptions())


@pytest.mark.parametrize("task", ["text-classification", "fill-mask"])
def test_a_template_of_the_recipe_that_names_no_column_names_the_row(task, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "a b", "label": "x"}\n')
    options = EncodeOptions(template="{colour} {text}", labels=("x",))
    read = read_all(Source(path="rows.jsonl"), tmp_path)
    encoded = encode_all(read, get_task(task), tiny.tokenizer(encoder=True), options)
    assert [p.field for p in encoded.problems] == ["template"] and "colour" in encoded.problems[0].reason
