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
from tunewright.data.labels import labels_of
from tunewright.data.places import locate
from tunewright.data.read import read_all
from tunewright.data.shapes import columns_of, recognise
from tunewright.data.view import coloured, one_a_source, token_view
from tunewright.errors import DataError
from tunewright.planning.check import check_recipe
from tunewright.recipe import Recipe, Source
from tunewright.runs.run import run as launch
from tunewright.tasks import get_task, names
from tunewright.tasks._parts import TABULAR

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


def test_prompts_that_end_in_a_space_are_noted_where_no_template_follows(tmp_path):
    rows = [pair(1), {"prompt": "question 2 ", "completion": "b"}]
    assert notices(run(tmp_path, {"train": rows}, options=EncodeOptions(chat=False))[0]) == {
        "space before the answer": ("train.jsonl:2",)
    }
    assert not notices(run(tmp_path, {"train": rows})[0])


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


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("data/sets/a.jsonl", "put 'data' into {here}, or check the path"),
        ("sets/more/a.jsonl", "put 'more' into {here}/sets, or check the path"),
        ("sets/rows.jsonl", "did you mean 'row.jsonl'"),
    ],
)
def test_what_is_missing_of_a_path_is_named(tmp_path, path, said):
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets" / "row.jsonl").write_text("{}")
    with pytest.raises(DataError, match="no such file or folder") as caught:
        locate(Source(path=path), tmp_path)
    assert said.format(here=tmp_path) in caught.value.remedy


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


@pytest.mark.parametrize(
    ("task", "rows", "told"),
    [
        ("multiple-choice", [{"question": f"q {i}", "choices": ["card", "fee"], "label": 0} for i in range(3)], True),
        ("text-ranking", [{"query": "card", "passage": f"fee {i}", "label": 1} for i in range(3)], True),
        ("text-ranking", [{"query": "card", "passage": f"fee {i}", "label": i % 2} for i in range(3)], False),
        ("sentence-similarity", [{"sentence1": "a", "sentence2": f"b {i}", "score": 0.5} for i in range(3)], True),
        ("sentence-similarity", [{"query": "a", "positive": f"b {i}"} for i in range(3)], False),
    ],
)
def test_rows_of_one_label_or_score_are_said(tmp_path, task, rows, told):
    source = write(tmp_path, "train.jsonl", rows)
    many = [source, write(tmp_path, "other.jsonl", rows)]
    for given in ([source], many):
        report = check({"train": given}, get_task(task), tiny.tokenizer(), EncodeOptions(), base=tmp_path)
        said = [c for c in report.cautions if "same label or score" in c]
        assert bool(said) == (told and len(given) == 1), report.cautions
        assert not said or said[0].startswith("all rows of train.jsonl")


def test_a_text_that_is_its_own_positive_is_said(tmp_path):
    rows = [{"query": "card", "positive": p} for p in ("fee", "card")] + [{"anchor": "fee", "positive": "fee"}]
    source = write(tmp_path, "train.jsonl", rows)
    report = check(
        {"train": [source]}, get_task("sentence-similarity"), tiny.tokenizer(), EncodeOptions(), base=tmp_path
    )
    assert notices(report)["positive is itself"] == ("train.jsonl:2", "train.jsonl:3")


@pytest.mark.parametrize(("label", "told"), [("loan", ["no training row has the label 'loan'"]), ("fee", [])])
def test_labels_that_no_training_row_has_are_said(tmp_path, label, told):
    tiny.bert().save_pretrained(tmp_path / "base"), tiny.tokenizer().save_pretrained(tmp_path / "base")
    write(tmp_path, "train.jsonl", [{"text": f"card {i}", "label": ("fee", "rate")[i % 2]} for i in range(6)])
    write(tmp_path, "eval.jsonl", [{"text": "cash", "label": "fee"}, {"text": "top up", "label": label}])
    tree = {"model": "./base", "task": "text-classification", "data": {"train": "train.jsonl", "eval": "eval.jsonl"}}
    tree |= {"methods": ["full"], "budget": {"steps": 1}, "measurement": {"strengths": [1]}}
    (tmp_path / "r.yaml").write_text(json.dumps(tree))
    recipe = Recipe.load(tmp_path / "r.yaml")
    said = [c for c in check_recipe(recipe).report.cautions if "no training row" in c]
    assert [c.split(",")[0] for c in said] == told
    launch(recipe, tmp_path / "out", quiet=True)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [c.split(",")[0] for c in report["notes"] if "no training row" in c] == told


def test_every_task_says_which_columns_its_rows_have(tmp_path):
    for name in names():
        if name in TABULAR:  # rows have the columns of their table
            continue
        task = get_task(name)
        columns = columns_of(name)
        assert columns and all(recognise(dict.fromkeys(c, "x")).name for c in columns)
        source = write(tmp_path, "train.jsonl", [{"a": "b"}])
        report = check({"train": [source]}, task, tiny.tokenizer(), EncodeOptions(), base=tmp_path)
        (problem,) = report.problems
        assert problem.remedy.startswith(f"rows of {name} have {' + '.join(columns[0])}")
        assert problem.remedy.endswith(f"columns: {{{', '.join(f'{c}: your_column' for c in columns[0])}}}")
        if task.labelled:
            with pytest.raises(DataError, match=f"no row has a label(.|\n)*rows of {name} have"):
                labels_of([source], tmp_path, task)
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n")
    report = check({"train": [Source(path="rows.csv")]}, TASK, tiny.tokenizer(), EncodeOptions(), base=tmp_path)
    assert report.problems[0].remedy.endswith("completion: your_column}; a table's first line must name its columns")


def test_a_format_is_a_shape_s_own_name_before_it_is_a_column():
    row = {"text": "a", "label": "b"}
    assert recognise(row).name == "text-label" == recognise(row, "label").name
    assert recognise(row, "text").name == "text"
    assert recognise({"messages": [], "image": "a.png"}, "messages").name == "pictured-chat"
