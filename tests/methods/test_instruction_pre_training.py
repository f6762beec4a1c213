"""Instruction pre-training: documents with the pairs that a synthesizer wrote on them, a few to a text."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests import small
from tests.methods.making import made
from tunewright.contract.records import Record
from tunewright.contract.writer import Reply
from tunewright.data.synthesize.instruction_pre_training import InstructionPreTraining, pairs_in
from tunewright.errors import DataError
from tunewright.runs.run import run

DOCS = [Record({"text": f"The document {i}."}, id=f"d:{i}", source="d", where=f"d.txt:{i}") for i in range(5)]
TAGS = "<QUE> what is {0}? <ANS> it is {0} </END>\n\n<QUE> WHAT is {0}? <ANS> again </END>\n\n<QUE> and <ANS> cut"


def last_document(prompt: Any) -> int:
    return int(re.findall(r"document (\d)", str(prompt))[-1])


def say(prompt: Any, k: int) -> Reply | str:
    i = last_document(prompt)
    return "nothing of use" if i == 2 else TAGS.format(i)


def test_texts_are_chains_of_documents_with_their_pairs_as_the_authors_lay_them() -> None:
    method = InstructionPreTraining(form="tags", shots=3, templates=["Q {question} A {answer}"])
    found, writer = made(method, DOCS, say)
    texts = {m.of.id: m.values for m in found}
    both = [f"The document {i}.\n\nQ what is {i}? A it is {i}" for i in range(5)]
    assert texts["d:1"] == {"text": "\n\n".join(both[:2]), "documents": ["d:0", "d:1"], "pairs": 2}
    assert texts["d:2"] == {"text": "The document 2.", "documents": ["d:2"], "pairs": 0}
    assert texts["d:4"] == {"text": "\n\n".join(both[3:]), "documents": ["d:3", "d:4"], "pairs": 2}
    assert len(found) == 3 and not any(m.thrown for m in found)
    assert {m.of.id: m.verdict for m in found} == {
        "d:1": "with pairs",
        "d:2": "plain, since no pair can be read",
        "d:4": "with pairs",
    }
    shown = {last_document(p): p for p, _, _ in writer.asked}
    assert shown[0] == " <CON> The document 0. </CON>\n\n"
    assert (
        shown[2]
        == "".join(f" <CON> The document {i}. </CON>\n\n<QUE> what is {i}? <ANS> it is {i} </END></s>" for i in (0, 1))
        + " <CON> The document 2. </CON>\n\n"
    )
    assert {(limit, t) for _, limit, t in writer.asked} == {(400, 0.0)}


def test_pairs_are_read_whole_and_once_in_both_forms() -> None:
    assert pairs_in(TAGS.format(1)) == [("what is 1?", "it is 1")]
    asked = "Sure!\n\n**Question 1:** Who?\n**Answer:** Ada.\n\n2. Question: Where?\nAnswer: In\nLondon\n\nQ: When"
    assert pairs_in(asked) == [("Who?", "Ada."), ("Where?", "In\nLondon")]
    assert pairs_in("Question: a?\nAnswer: b\nQuestion: c?\nAnswer: d", ended=False) == [("a?", "b")]
    assert pairs_in("Question: a?\nAnswer:\n") == pairs_in("") == pairs_in("Answer: b") == []


def test_a_share_gets_pairs_and_the_rest_stays_plain() -> None:
    found, writer = made(InstructionPreTraining(share=0.4, shots=1, most_pairs=1), DOCS, say)
    assert len(writer.asked) == 2 and len(found) == 5
    assert sorted(m.of.id for m in found) == [d.id for d in DOCS]
    assert [m.verdict for m in found].count("left plain") == 3
    backwards, _ = made(InstructionPreTraining(share=0.4, shots=1, most_pairs=1), DOCS[::-1], say)
    assert {m.of.id for m in backwards if m.written} == {m.of.id for m in found if m.written}


def test_what_is_too_long_behind_others_is_asked_alone_and_bad_records_are_named() -> None:
    def short(prompt: Any, k: int) -> Reply | str:
        return Reply("", False, 0, refused="the prompt is too long: 9") if len(prompt) > 1 else say(prompt, k)

    found, writer = made(InstructionPreTraining(), DOCS[:2], short)
    assert len(writer.asked) == 3 and found[0].values["documents"] == ["d:0", "d:1"]
    never, _ = made(InstructionPreTraining(), DOCS[:1], lambda p, k: Reply("", False, 0, refused="too long: 9"))
    assert never[0].verdict == "plain, since too long" and never[0].values["text"] == DOCS[0]["text"]
    with pytest.raises(DataError, match="no document") as error:
        made(InstructionPreTraining(), [*DOCS, Record({"prompt": "p"}, id="x", where="x:1")], say)
    assert error.value.where == "x:1"
    with pytest.raises(ValueError, match="answer"):
        InstructionPreTraining(templates=["{question}"])


def test_in_a_run_texts_are_read_and_counted(tmp_path: Path) -> None:
    small.write_inputs(tmp_path, train=2)
    (tmp_path / "docs.txt").write_text("\n\n".join(f"card lost {i} fee" for i in range(4)))
    maker = {"instruction-pre-training": {"max_new_tokens": 4, "share": 0.5}}
    data = {"train": "docs.txt", "synthesize": [maker]}
    stage = {"name": "read", "data": data, "methods": [{"lora": {"rank": 2}}], "budget": {"steps": 1}}
    run(small.write_recipe(tmp_path, stages=[stage], measurement__strengths=[1.0]), tmp_path / "out", quiet=True)
    head, *lines = map(json.loads, (tmp_path / "out/made/read.jsonl").read_text().splitlines())
    assert head["kept"] == 4 and head["verdicts"]["left plain"] == 2 and head["writers"]["start"]["weights"]
    assert sorted(d for x in lines for d in x["values"]["documents"]) == sorted(x["of"] for x in lines)
    assert sum("prompt" in x and "draw" in x for x in lines) == 2
