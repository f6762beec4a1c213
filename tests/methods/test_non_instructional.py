"""Non-instructional fine-tuning: where a text is cut, what is asked and kept, what goes; and a run from plain text."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import small
from tests.methods.making import made
from tunewright.contract.records import Record
from tunewright.contract.writer import Reply
from tunewright.data.synthesize.non_instructional_fine_tuning import CONTINUE, NonInstructional
from tunewright.errors import DataError
from tunewright.runs.run import run

TEXT = "one two  three\nfour five six seven"


def document(text: str, name: str = "d") -> Record:
    return Record({"text": text}, id=name)


def test_a_half_is_asked_and_what_is_written_after_it_is_the_answer():
    method = NonInstructional(least=2, ask="Go on: {text}", max_new_tokens=9, temperature=0.5)
    found, writer = made(method, [document(TEXT)], lambda prompt, k: " eight. \n")
    assert writer.asked == [("Go on: one two  three\nfour", 9, 0.5)]
    (one,) = found
    assert one.values == {"prompt": "one two  three\nfour", "completion": "eight."} and not one.thrown
    assert one.written is not None and one.written.writer == "start" and one.written.draw


def test_the_share_says_where_and_no_side_is_empty():
    for share, half in ((0.3, "one two"), (0.01, "one"), (0.99, "one two  three\nfour five six")):
        found, _ = made(NonInstructional(least=2, share=share), [document(TEXT)], lambda prompt, k: "x")
        assert found[0].values["prompt"] == half


@given(st.lists(st.text("ab\u00e9.", min_size=1), min_size=2, max_size=30), st.floats(0.01, 0.99))
def test_both_sides_together_are_the_text(words, share):
    text = "\n ".join(words)
    method = NonInstructional(least=2, share=share, model=None)
    (one,) = method.synthesize([document(text)], {})
    half, rest = str(one.values["prompt"]).split(), str(one.values["completion"]).split()
    assert half + rest == words and half and rest and one.written is None
    assert abs(len(half) - share * len(words)) <= 1


def test_a_model_may_go_on_without_a_template_and_by_default_it_is_told_to():
    for ask, expected in ((None, "one two  three\nfour"), (CONTINUE, CONTINUE.format(text="one two  three\nfour"))):
        _, writer = made(NonInstructional(least=2, ask=ask), [document(TEXT)], lambda prompt, k: "x")
        assert [asked for asked, *_ in writer.asked] == [expected]
    assert NonInstructional().ask == CONTINUE


def test_what_is_too_short_cut_off_or_empty_goes_with_its_reason():
    replies = {"a b": Reply("half of", False, 2), "c d": Reply(" ", True, 1), "e f": Reply("whole", True, 1)}
    texts = ["a b c d", "c d e f", "e f g h", "too short"]
    records = [document(t, t) for t in texts]
    found, writer = made(NonInstructional(least=4, ask="{text}"), records, lambda prompt, k: replies[prompt])
    assert {m.of.id: m.thrown for m in found} == {
        "a b c d": "cut off",
        "c d e f": "the writer gave nothing",
        "e f g h": "",
        "too short": "too short to be cut",
    }
    assert len(writer.asked) == 3
    found, _ = made(NonInstructional(least=4, ask="{text}", whole=False), records, lambda prompt, k: replies[prompt])
    assert [m.values["completion"] for m in found if not m.thrown] == ["half of", "whole"]


def test_texts_that_ask_are_left_out_where_that_is_asked_for():
    texts = ["who is it? nobody was here", "Q: one two\nA: three four", "she said that she asked him"]
    records = [document(t, t) for t in texts]

    def say(prompt: str, k: int) -> str:
        return "Assistant: yes" if "that" in prompt else "no"

    found, writer = made(NonInstructional(least=2, questions=False), records, say)
    assert [m.thrown for m in found] == ["the text asks something"] * 2 + ["what was written asks something"]
    assert len(writer.asked) == 1
    found, _ = made(NonInstructional(least=2), records, say)
    assert not any(m.thrown for m in found)
    own = NonInstructional(least=2, questions=False, model=None).synthesize([document("a b c d?")], {})
    assert own[0].thrown == "the text asks something"


def test_a_template_holds_the_half_and_a_record_a_text():
    with pytest.raises(ValueError, match="ask does not say where {text} goes"):
        NonInstructional(ask="go on")
    with pytest.raises(DataError, match="no document"):
        made(NonInstructional(), [Record({"prompt": "who?"}, id="a")], lambda prompt, k: "x")


@pytest.mark.parametrize("model", ["base", None])
def test_a_run_learns_the_rows_that_plain_text_gives(tmp_path, monkeypatch, model):
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    small.write_inputs(tmp_path, train=4, test=4)
    texts = [f"{word} lost card fee cash rate" for word in small.WORDS[:5]]
    (tmp_path / "texts.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in texts))
    maker = {"non-instructional-fine-tuning": {"model": model, "least": 4, "max_new_tokens": 3, "whole": False}}
    data = {"train": "texts.jsonl", "synthesize": [maker]}
    stages = [{"name": "halves", "data": data, "methods": ["full"], "budget": {"steps": 1}}]
    run(small.write_recipe(tmp_path, stages=stages), tmp_path / "out", quiet=True)
    kept = (tmp_path / "out" / "made" / "halves.rows.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in kept]
    assert rows and all(set(r) >= {"prompt", "completion"} for r in rows)
    asked = {" ".join(t.split()[:3]): " ".join(t.split()[3:]) for t in texts}
    assert {r["prompt"] for r in rows} <= set(asked)
    if model is None:
        assert all(r["completion"] == asked[r["prompt"]] for r in rows) and len(rows) == 5
