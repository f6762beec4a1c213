"""PCP: what is asked, which answers are labels, what is read; and the recipe's three stages."""

from __future__ import annotations

import json

import pytest

from tests import small
from tests.methods.making import made
from tunewright.contract.records import Record
from tunewright.data.synthesize.pcp import PCP
from tunewright.runs.run import run

POOL = [Record({"text": t, "label": "wrong"}, id=f"p:{i}") for i, t in enumerate(["lost {label}", "fee", "rate"])]
PROMPT = {"ask": "Topic of: {text}", "fill": "{text} The topic is {label}.", "labels": ["card", "cash fee"]}


def test_a_text_is_read_in_its_prompt_with_the_label_that_a_model_gives():
    said = {"Topic of: lost {label}": "card ", "Topic of: fee": " cash fee\n", "Topic of: rate": "no idea"}
    found, writer = made(PCP(**PROMPT, model="start", max_new_tokens=4), POOL, lambda prompt, k: said[prompt])
    assert writer.asked == [(prompt, 4, 0.0) for prompt in said]
    kept = [m.values for m in found if not m.thrown]
    assert kept == [{"text": "lost {label} The topic is card."}, {"text": "fee The topic is cash fee."}]
    assert [m.thrown for m in found] == ["", "", "the answer is none of the labels"]


def test_without_labels_every_answer_is_one_and_rows_with_a_prompt_are_read_too():
    asked = Record({"prompt": "who?", "completion": "nobody"}, id="a")
    found, _ = made(PCP(model="start"), [asked], lambda prompt, k: "me" if prompt == "who?" else "")
    assert [m.values for m in found] == [{"text": "who?\nme"}]


def test_templates_say_where_text_and_label_go():
    with pytest.raises(ValueError, match="ask does not say where {text}"):
        PCP(ask="topic?")
    with pytest.raises(ValueError, match="fill does not say where {label}"):
        PCP(fill="{text}")


def test_the_three_stages_run(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    small.write_inputs(tmp_path, train=12, test=4)
    (tmp_path / "pool.jsonl").write_text("\n".join(json.dumps({"text": " ".join(small.WORDS[i:])}) for i in range(5)))
    stage = {"methods": ["full"], "budget": {"steps": 1}}
    stages = [
        {"name": "teacher", **stage},
        {
            "name": "read",
            "start": "base",
            "data": {"train": "pool.jsonl", "synthesize": [{"pcp": {"model": "stages.teacher", "max_new_tokens": 2}}]},
            **stage,
        },
        {"name": "task", "start": "stages.read", **stage},
    ]
    report = run(small.write_recipe(tmp_path, stages=stages), tmp_path / "out", quiet=True).report
    assert [s.name for s in report.stages] == ["teacher", "read", "task"]
    rows = [json.loads(line) for line in (tmp_path / "out" / "made" / "read.rows.jsonl").read_text().splitlines()]
    assert rows and all(set(r) >= {"text"} and "\n" in r["text"] for r in rows)
