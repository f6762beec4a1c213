"""SearchInstruct: questions after seeds, the documents that BM25 finds for them, answers that hold to these."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import small
from tests.methods.making import made
from tunewright.contract.records import Record
from tunewright.contract.writer import Reply
from tunewright.data.neighbours import bm25
from tunewright.data.synthesize.searchinstruct import NO_ANSWER, SearchInstruct, questions_in
from tunewright.errors import DataError
from tunewright.runs.run import run
from tunewright.training.writing import LocalWriter

TEXTS = (
    "A lost card is blocked at once.",
    "The fee for cash abroad is two euros.",
    "Cash at home has no fee, cash abroad has one.",
    "The pin is changed at any machine.",
)
DOCS = [Record({"text": t}, id=f"d:{i}", source="d", where=f"d.txt:{i}") for i, t in enumerate(TEXTS)]
SEEDS = [
    Record({"prompt": p}, id=f"s:{i}", source="s", where=f"s.jsonl:{i}")
    for i, p in enumerate(("Where is my card?", "What is a pin?", "Is cash free?"))
]
NEW = {
    "Where is my card?": ["What is the fee for cash abroad?", "is CASH free"],
    "What is a pin?": ["Can I change my pin?", "Is there snow?", "zzz?"],
    "Is cash free?": ["What is the fee for cash abroad?", "Is a card blocked?"],
}
SAID = {
    "What is the fee for cash abroad?": "The fee is two euros.",
    "Can I change my pin?": "Yes, at every branch and online too, whenever you like.",
    "Is there snow?": f"{NO_ANSWER}.",
    "Is a card blocked?": Reply("A lost card is", False, 4),
    "Is cash free?": "Cash at home has no fee.",
    "Where is my card?": "",
    "What is a pin?": "The pin is at any machine.",
}


def question(prompt: str) -> str:
    return prompt.rpartition("Question: ")[2]


def say(prompt: Any, k: int) -> Reply | str:
    if "questions that people ask" in prompt:
        shown = [line[2:] for line in prompt.splitlines() if line.startswith("- ")]
        return json.dumps({"questions": NEW[shown[0]]})
    return SAID[question(prompt)]


def fates(found: Any) -> dict[str, str]:
    return {str(m.values["prompt"]): m.thrown for m in found}


def plainly(documents: tuple[str, ...], asked: str) -> list[float]:
    """BM25 as its formula says, word by word."""
    words = [Counter("".join(c if c.isalnum() else " " for c in d.lower()).split()) for d in documents]
    mean = sum(w.total() for w in words) / len(words)
    out = []
    for w in words:
        score = 0.0
        for q in "".join(c if c.isalnum() else " " for c in asked.lower()).split():
            n = sum(q in other for other in words)
            idf = math.log(1 + (len(words) - n + 0.5) / (n + 0.5))
            score += idf * w[q] * 2.5 / (w[q] + 1.5 * (0.25 + 0.75 * w.total() / mean))
        out.append(score)
    return out


def test_documents_are_found_by_bm25() -> None:
    asked = ["fee for cash, cash abroad", "pin?", "nothing here", ""]
    found = bm25(TEXTS, asked).toarray()
    np.testing.assert_allclose(found, [plainly(TEXTS, q) for q in asked], rtol=1e-12)
    assert found[0].argmax() == 1 and found[0, 2] > 0 and not found[2:].any()


def test_new_questions_look_up_documents_and_answers_hold_to_them() -> None:
    method = SearchInstruct(iterations=12, shown=1, new=2, documents=2)
    found, writer = made(method, [*SEEDS, *DOCS], say)
    assert {p.split("Write 2 other")[0].count("\n- ") for p, _, _ in writer.asked if "people ask" in p} == {1}
    kept = {str(m.values["prompt"]): m for m in found if not m.thrown}
    assert list(kept) == ["What is the fee for cash abroad?"] and len([p for p, _, _ in writer.asked]) == 12 + 4
    one = kept["What is the fee for cash abroad?"]
    best = sorted(range(4), key=lambda i: -plainly(TEXTS, "What is the fee for cash abroad?")[i])[:2]
    assert one.values["documents"] == [f"d:{i}" for i in best] and one.values["completion"] == "The fee is two euros."
    asked = next(p for p, _, _ in writer.asked if question(p) == "What is the fee for cash abroad?")
    assert asked.startswith(f"{TEXTS[best[0]]}\n\n{TEXTS[best[1]]}\n\n")
    thrown = Counter(m.thrown for m in found if m.thrown)
    assert thrown.keys() == {
        "it was asked before",
        "it says what is not in the documents",
        "the documents do not say it",
        "cut off",
    }
    assert fates(found)["is CASH free"] == "it was asked before"
    assert fates(found)["Is there snow?"] == "the documents do not say it"
    share = {str(m.values["prompt"]): m.scores["grounded"] for m in found if m.scores}
    assert share["Can I change my pin?"] == pytest.approx(1 / 10)  # at
    loose, _ = made(SearchInstruct(iterations=12, shown=1, new=2, grounded=0.05), [*SEEDS, *DOCS], say)
    assert fates(loose)["Can I change my pin?"] == ""
    assert {t for p, _, t in writer.asked if "people ask" in p} == {0.5}
    assert {t for p, _, t in writer.asked if "people ask" not in p} == {0.1}


def test_seeds_are_answered_where_that_is_asked_for_and_draws_are_without_repeats() -> None:
    found, writer = made(SearchInstruct(iterations=2, shown=3, new=3, seeds=True), [*DOCS, *SEEDS], say)
    assert fates(found)["Is cash free?"] == "" and fates(found)["Where is my card?"] == "the writer gave nothing"
    lists = [p for p, _, _ in writer.asked if "people ask" in p]
    assert all(sorted(x[2:] for x in p.splitlines() if x[:2] == "- ") == sorted(SAID_SEEDS) for p in lists)
    of = {str(m.values["prompt"]): m.of.id for m in found}
    assert of["Is cash free?"] == "s:2" and all(i.startswith("s:") for i in of.values())
    assert "zzz?" not in fates(made(SearchInstruct(iterations=9, shown=1, new=2), [*DOCS, *SEEDS], say)[0])
    unheard = fates(made(SearchInstruct(iterations=9, shown=1, new=3), [*DOCS, *SEEDS], say)[0])
    assert unheard["zzz?"] == "no document has a word of the question"
    assert SearchInstruct().makes(9) == 50 and SearchInstruct(seeds=True).makes(9) == 59


SAID_SEEDS = [str(s["prompt"]) for s in SEEDS]


def test_questions_are_read_as_models_write_them_and_what_is_missing_is_said() -> None:
    assert questions_in('Sure: {"questions": ["a b?", " ", "c?"]}') == ["a b?", "c?"]
    assert questions_in("1. a b?\n- c?\n\n") == ["a b?", "c?"] and questions_in("?!") == []
    none, _ = made(SearchInstruct(iterations=1), [*SEEDS, *DOCS], lambda p, k: "..")
    assert [m.thrown for m in none] == ["no question can be read in it"]
    with pytest.raises(DataError, match="of 4 rows none is a question"):
        made(SearchInstruct(), DOCS, say)
    with pytest.raises(DataError, match="of 3 rows none is plain text"):
        made(SearchInstruct(), SEEDS, say)
    first, second = (made(SearchInstruct(shown=1), [*SEEDS, *DOCS], say, rng=random.Random(i))[1] for i in (0, 1))
    assert [p for p, _, _ in first.asked] != [p for p, _, _ in second.asked], "seeds are drawn"


def test_in_a_run_seeds_lie_beside_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(self: Any, asked: Any, limit: int, temperature: float) -> Any:  # what a tiny model writes never ends
        return [[Reply("the card has a fee", True, 5) for _ in a.draws] for a in asked], 0

    monkeypatch.setattr(LocalWriter, "_write", ended)
    small.write_inputs(tmp_path, train=2)
    (tmp_path / "docs.txt").write_text("\n\n".join(["card lost, fee, rate", "pin and cash abroad", "top up a card"]))
    (tmp_path / "seeds.jsonl").write_text(
        "\n".join(json.dumps({"prompt": p, "completion": ""}) for p in ("card fee", "cash pin"))
    )
    use = {"iterations": 2, "new": 2, "seeds": True, "grounded": 0.0, "max_new_tokens": 12, "answer_temperature": 1.0}
    changes: dict[str, Any] = {
        "data__train": ["seeds.jsonl", "docs.txt"],
        "data__synthesize": [{"searchinstruct": use}],
        "stages__0__methods": [{"lora": {"rank": 2}}],
        "stages__0__budget": {"steps": 1},
        "measurement__strengths": [1.0],
    }
    run(small.write_recipe(tmp_path, **changes), tmp_path / "out", quiet=True)
    head, *lines = map(json.loads, (tmp_path / "out/made/main.jsonl").read_text().splitlines())
    assert head["kept"] + sum(head["thrown"].values()) == len(lines) and head["of"] == 5
    assert head["kept"] == 3, "two seeds, and the one question that was written"
    rows = [json.loads(x) for x in (tmp_path / "out/made/main.rows.jsonl").read_text().splitlines()]
    assert rows and all({"prompt", "completion", "documents"} <= set(r) and "text" not in r for r in rows)
