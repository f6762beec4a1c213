"""I2D2: which draws keep to the constraints, which the critic sees and accepts, which are the likeliest; and rounds."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import small
from tests.methods.making import made
from tunewright.contract.records import Record
from tunewright.contract.writer import Reply
from tunewright.data.synthesize.i2d2 import I2D2
from tunewright.runs.run import run

BIRDS = Record({"prompt": "Birds can", "completion": ""}, id="birds")


def verdicts(method: I2D2, said: list[str | Reply], score=lambda record, text: 1.0):
    found, writer = made(method, [BIRDS], lambda prompt, k: said[k], score)
    return [m.thrown for m in found], found, writer


def test_a_statement_has_a_word_of_each_list_none_of_the_others_and_is_short():
    method = I2D2(samples=6, one_of=[["fly", "sing"], ["in the", "at"]], none_of=["he"], most_words=5)
    said = [
        "fly in the sky",
        "FLY  In\nThe sky",
        "flying in the sky",
        "sing",
        "sing at him he",
        "fly in the blue sky now",
    ]
    why, _, _ = verdicts(method, said)
    assert why == [
        "",
        "said before",
        "it lacks a word that it needs",
        "it lacks a word that it needs",
        "it has a word that it may not have",
        "too many words",
    ]


@given(st.lists(st.lists(st.sampled_from(["a", "bb", "c"]), min_size=1, max_size=4), min_size=2, max_size=6))
def test_what_is_kept_keeps_to_every_constraint_and_nothing_else_goes(drawn):
    method = I2D2(samples=len(drawn), one_of=[["a", "c"]], none_of=["bb"], most_words=3)
    _, found, _ = verdicts(method, [" ".join(words) for words in drawn])
    kept = [str(m.values["completion"]).split() for m in found if not m.thrown]
    right = [w for w in drawn if {"a", "c"} & set(w) and "bb" not in w and len(w) <= 3]
    assert kept == [w for i, w in enumerate(right) if w not in right[:i]]


def test_the_critic_judges_what_keeps_to_the_constraints_and_accepts_from_its_bound():
    seen = list[str]()

    def score(record: Record, text: str) -> float:
        seen.append(text)
        assert record["prompt"] == "Birds can" and record["completion"] == "..."
        return {"fly": 0.5, "swim": 0.4}[text]

    why, found, writer = verdicts(I2D2(samples=3, none_of=["talk"]), ["fly", "talk", "swim"], score)
    assert why == ["", "it has a word that it may not have", "the critic does not accept it"]
    assert seen == ["fly", "swim"] and [dict(m.scores) for m in found] == [{"judged": 0.5}, {}, {"judged": 0.4}]
    assert found[0].values == {"prompt": "Birds can", "completion": "fly"} and found[0].of is BIRDS
    assert [a[1:] for a in writer.asked] == [(32, 1.0)]


def test_of_those_accepted_the_likeliest_a_token_stay_in_their_order():
    said = [Reply("fly", True, 4, -4.0), Reply("sing low", True, 1, -3.0), Reply("eat", True, 8, -4.0)]
    for best, kept in ((1, ["eat"]), (2, ["fly", "eat"]), (None, ["fly", "sing low", "eat"])):
        why, found, _ = verdicts(I2D2(samples=3, best=best), list(said))
        assert [m.values["completion"] for m in found if not m.thrown] == kept
        assert set(why) <= {"", "others are likelier"}


def test_what_was_cut_off_or_empty_goes():
    why, _, _ = verdicts(I2D2(samples=2), [Reply("fly and", False, 2), " "])
    assert why == ["cut off", "the writer gave nothing"]


def test_what_cannot_be_is_said():
    with pytest.raises(ValueError, match="3 statements at temperature 0 are one and the same"):
        I2D2(samples=3, temperature=0)
    for wrong in ({"one_of": [[]]}, {"none_of": [" "]}, {"one_of": [["fly", ""]]}):
        with pytest.raises(ValueError, match="one_of and none_of hold words"):
            I2D2(**wrong)


def test_rounds_learn_what_the_last_one_wrote_and_a_judge_must_stand_beside(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    small.write_inputs(tmp_path, train=4, test=4)
    rows = [{"prompt": word, "completion": ""} for word in small.WORDS[:4]]
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    maker = {"i2d2": {"samples": 6, "max_new_tokens": 8, "accept": 0.0, "none_of": ["pin"], "best": 2}}
    data = {"train": "prompts.jsonl", "synthesize": [maker, {"exact-answer": {"partial": 0.5}}], "chat": False}
    stage = {"name": "imitate", "rounds": 2, "data": data, "methods": ["full"], "budget": {"steps": 1}}
    taught = {"name": "taught", "data": {"chat": False}, "methods": ["full"], "budget": {"steps": 40}}
    taught["train"] = {"learning_rate": 1e-2}
    run(small.write_recipe(tmp_path, stages=[taught, stage]), tmp_path / "out", quiet=True)
    told = []
    for name in ("imitate-1", "imitate-2"):
        head, *lines = (tmp_path / "out" / "made" / f"{name}.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        assert len(records) == 24 and all("draw" in r and r["writer"] == "start" for r in records), head
        kept = [r["values"]["completion"] for r in records if not r.get("thrown")]
        assert kept and len(kept) <= 8 and not any("pin" in text.split() for text in kept)
        told.append([r["values"]["completion"] for r in records])
    assert told[0] != told[1]
