"""Checking data: all bad rows at once, what is silently wrong, clean copies; and the view of what is trained."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests import tiny
from tunewright.contract.batch import Row
from tunewright.contract.records import Record
from tunewright.contract.task import EncodeOptions
from tunewright.data.check import check, write_clean
from tunewright.data.read import read_all
from tunewright.data.view import coloured, one_a_source, token_view
from tunewright.errors import DataError
from tunewright.recipe import Source
from tunewright.tasks import get_task

TASK = get_task("text-generation")
GOOD = {"prompt": "Which topic is this?", "completion": "card arrival"}


def write(folder, name, rows):
    (folder / name).write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return Source(path=name)


def run(tmp_path, groups, *, options=None, **tokenizer):
    sources = {role: [write(tmp_path, f"{role}.jsonl", rows)] for role, rows in groups.items()}
    report = check(sources, TASK, tiny.tokenizer(**tokenizer), options or EncodeOptions(), base=tmp_path)
    return report, sources


def notices(report) -> dict[str, tuple[str, ...]]:
    return {n.kind: n.where for n in report.notices}


def pair(i) -> dict:
    return {"prompt": f"question {i}", "completion": "b"}


def test_clean_data_is_ok(tmp_path):
    report, _ = run(tmp_path, {"train": [pair(1), pair(2)], "eval": [pair(3)]})
    assert report.ok and not report.notices and report.to_json()["ok"]
    assert report.sources[0].shapes == {"prompt-completion": 2} and report.sources[0].counts["rows"] == 2


def test_every_bad_row_of_every_kind_is_listed(tmp_path):
    bad = [pair(1), "{", {"prompt": "a", "completion": ""}, {"x": 1}, {"messages": []}, pair(2)]
    report, _ = run(tmp_path, {"train": bad})
    assert [p.where for p in sorted(report.problems, key=lambda p: p.where)] == [
        f"train.jsonl:{n}" for n in (2, 3, 4, 5)
    ]
    assert not report.ok and all(p.reason and p.remedy for p in report.problems)


def test_duplicates_and_overlap_name_both_rows(tmp_path):
    report, _ = run(
        tmp_path,
        {"train": [pair(1), pair(2), pair(1)], "eval": [{"prompt": " Question  2", "completion": "c"}, pair(9)]},
    )
    found = {n.kind: (n.where, n.pairs) for n in report.notices}
    assert found == {
        "duplicate": (("train.jsonl:3",), ("train.jsonl:1",)),
        "overlap": (("eval.jsonl:1",), ("train.jsonl:2",)),
    }


def test_a_chat_row_and_a_prompt_row_with_one_input_overlap(tmp_path):
    chat = {"messages": [{"role": "user", "content": "question 1"}, {"role": "assistant", "content": "x"}]}
    assert notices(run(tmp_path, {"train": [pair(1)], "eval": [chat]})[0]) == {"overlap": ("eval.jsonl:1",)}


def test_a_question_of_parts_is_the_question_that_is_text(tmp_path):
    parts = [{"type": "text", "text": "question "}, {"type": "text", "text": "1 <|mask|>"}]
    chat = {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "x"}]}
    text = {"messages": [{"role": "user", "content": "question 1 <|mask|>"}, {"role": "assistant", "content": "y"}]}
    found = notices(run(tmp_path, {"train": [text], "eval": [chat]})[0])
    assert found["overlap"] == ("eval.jsonl:1",) and "eval.jsonl:1" in found["marker in text"]


def test_untrained_and_long_rows_are_listed_and_refused_if_all(tmp_path):
    untrained = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0}]}
    report, _ = run(
        tmp_path,
        {"train": [pair(1), untrained, {"prompt": "x" * 300, "completion": "y"}]},
        options=EncodeOptions(max_length=60),
    )
    assert report.ok and notices(report) == {"nothing trained": ("train.jsonl:2",), "too long": ("train.jsonl:3",)}
    report, _ = run(tmp_path, {"train": [untrained]})
    assert not report.ok and "would be trained" in report.refusals[0]


def test_a_doubled_or_missing_bos_is_seen(tmp_path):
    report, _ = run(tmp_path, {"train": [{"text": "<|bos|>The river rose"}, {"text": "a b"}]}, bos_first=True)
    assert notices(report) == {"double BOS": ("train.jsonl:1",), "marker in text": ("train.jsonl:1",)}
    assert notices(run(tmp_path, {"train": [GOOD]}, bos_first=True)[0]) == {"no BOS": ("train.jsonl:1",)}


def test_an_answer_whose_end_is_not_trained_is_seen(tmp_path):
    t = tiny.tokenizer()
    t.chat_template = (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}{% if "
        "add_generation_prompt %}assistant: {% endif %}"
    )
    report = check({"train": [write(tmp_path, "t.jsonl", [GOOD])]}, TASK, t, EncodeOptions(), base=tmp_path)
    assert notices(report) == {"end not trained": ("t.jsonl:1",)}


def test_a_file_that_cannot_be_read_does_not_hide_the_others(tmp_path):
    groups = {"train": [Source(path="none.jsonl"), write(tmp_path, "t.jsonl", [GOOD, "{"])]}
    report = check(groups, TASK, tiny.tokenizer(), EncodeOptions(), base=tmp_path)
    assert "no such file" in report.refusals[0] and [p.where for p in report.problems] == ["t.jsonl:2"]


def test_a_clean_copy_holds_the_good_rows_as_they_stood_and_quarantine_the_rest(tmp_path):
    rows = [
        {"question": "a", "answer": "b", "id": 7},
        "{oops",
        {"question": "a", "answer": "b", "id": 7},
        {"question": "c", "answer": ""},
    ]
    source = write(tmp_path, "t.jsonl", rows).model_copy(
        update={"columns": {"prompt": "question", "completion": "answer"}}
    )
    groups = {"train": [source]}
    report = check(groups, TASK, tiny.tokenizer(), EncodeOptions(), base=tmp_path)
    clean, quarantine = write_clean(report, groups, tmp_path / "clean", base=tmp_path)
    assert [json.loads(line) for line in clean.read_text().splitlines()] == [rows[0]]
    held = [json.loads(line) for line in quarantine.read_text().splitlines()]
    assert [(h["where"], h["row"]) for h in held] == [
        ("t.jsonl:2", "{oops"),
        ("t.jsonl:3", rows[2]),
        ("t.jsonl:4", rows[3]),
    ]
    again = source.model_copy(update={"path": str(clean)})
    assert check({"train": [again]}, TASK, tiny.tokenizer(), EncodeOptions()).ok and not read_all(again).problems


def test_pictures_cannot_be_written_as_lines(tmp_path):
    np.savez(tmp_path / "p.npz", x=np.zeros((2, 4, 4), np.uint8), y=np.array([0, 1]))
    groups = {"train": [Source(path="p.npz")]}
    report = check(groups, get_task("image-classification"), None, EncodeOptions(labels=("0", "1")), base=tmp_path)
    with pytest.raises(DataError, match="JSON lines"):
        write_clean(report, groups, tmp_path / "clean", base=tmp_path)


def test_the_view_shows_what_is_trained(tmp_path):
    t = tiny.tokenizer()
    row = TASK.encode(Record(GOOD, id="r"), t, EncodeOptions())
    view = token_view(row, t)
    assert "".join(x for x, w in view if w > 0) == "card arrival<|im_end|>" and "".join(x for x, _ in view) == t.decode(
        row.input_ids
    )
    text = coloured(view)
    assert any("green" in str(s.style) for s in text.spans) and "\u23ce\n" in text.plain
    assert "more tokens" in coloured(view, limit=3).plain


def test_the_view_of_plain_text_labels_and_parts_of_characters():
    t = tiny.tokenizer()
    plain = token_view(TASK.encode(Record({"text": "caf\u00e9"}, id="r"), t, EncodeOptions()), t)
    assert plain[0][1] == 0.0 and all(w == 1.0 for _, w in plain[1:]) and not any("\ufffd" in x for x, _ in plain)
    assert token_view(Row("r", "s", [20], [1.0], 1, {"reference": "loan"}), t)[-1] == ("[loan]", 1.0)
    assert list(one_a_source([type("D", (), {"name": "a", "rows": [Row("r", "s", [20], [1.0])]})], t)) == ["a"]


@pytest.mark.parametrize("task", ["text-generation", "reward-modeling"])
def test_a_pair_of_equal_answers_is_said(tmp_path, task):
    rows = [{"prompt": "a", "chosen": "card", "rejected": other} for other in ("fee", "card", "rate")]
    source = write(tmp_path, "train.jsonl", rows)
    report = check({"train": [source]}, get_task(task), tiny.tokenizer(), EncodeOptions(), base=tmp_path)
    assert notices(report)["equal answers"] == ("train.jsonl:2",)
    (caution,) = [c for c in report.cautions if "rejected" in c]
    assert caution.startswith("in 1 of 3 rows of train.jsonl")


def test_a_name_that_the_model_is_not_shown_is_said(tmp_path):
    rows = [{"messages": [{"role": "user", "content": f"Who {i}?"}, said(i)]} for i in range(2)]
    rows[1]["messages"][0]["name"] = "Bo"
    report, _ = run(tmp_path, {"train": rows})
    assert notices(report) == {"names not shown": ("train.jsonl:2",)}


def said(i):
    return {"role": "assistant", "content": f"Ann {i}."}
