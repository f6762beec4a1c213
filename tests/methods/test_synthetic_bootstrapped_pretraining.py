"""Synthetic bootstrapped pre-training: pairs of nearest documents, and texts written after documents, filtered."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer

from tests import small
from tests.methods.making import made
from tunewright.conformance.making import Makes
from tunewright.contract.made import Made
from tunewright.contract.method import call
from tunewright.contract.records import Record
from tunewright.contract.writer import Reply
from tunewright.data.neighbours import overlap, runs
from tunewright.data.synthesize.related_pairs import RelatedPairs
from tunewright.data.synthesize.synthetic_bootstrapped_pretraining import NEW, REAL, SyntheticBootstrappedPretraining
from tunewright.errors import DataError
from tunewright.runs.run import run

TEXTS = (
    "the card was lost in london",
    "a lost card is blocked at once",
    "THE card was lost in London.",
    "fees for cash abroad",
    "cash abroad costs fees and time",
    "nothing else here",
)
DOCS = [Record({"text": t}, id=f"d:{i}", source="d", where=f"d.txt:{i}") for i, t in enumerate(TEXTS)]
Pairs, Bootstrapped = RelatedPairs, SyntheticBootstrappedPretraining


def say_nothing(prompt: Any, k: int) -> str:
    raise AssertionError("no model is asked")


def pairs(method: Pairs, docs: list[Record] = DOCS) -> list[Made]:
    return call(method, "synthesize", records=docs, readers={})


def cosines(texts: tuple[str, ...]) -> np.ndarray:
    counts = CountVectorizer(token_pattern=r"\w+").fit_transform(texts)
    vectors = TfidfTransformer(smooth_idf=True).fit_transform(counts).toarray()
    return np.asarray(vectors @ vectors.T)


def test_each_document_is_paired_with_its_nearest_that_are_not_it_again() -> None:
    similar, expected = cosines(TEXTS), dict[int, list[int]]()
    for i in range(6):
        near = [j for j in sorted(range(6), key=lambda j: (-similar[i, j], j)) if j != i and similar[i, j] >= 0.1]
        expected[i] = [j for j in near if {i, j} != {0, 2}][:2]  # these two say the same
    assert expected[1] == [0, 2] and expected[3] == [4] and expected[5] == []
    found = pairs(Pairs(neighbours=2, least=0.1))
    told = {i: [m for m in found if m.of is DOCS[i] and not m.thrown] for i in range(6)}
    assert {i: [int(str(m.values["related"])[2:]) for m in some] for i, some in told.items()} == expected
    one = told[3][0]
    assert one.values["completion"] == TEXTS[4] and str(one.values["prompt"]).startswith(TEXTS[3] + "\n\n")
    assert one.scores["similarity"] == pytest.approx(similar[3, 4])
    assert [m.thrown for m in found if m.of is DOCS[5]] == ["no other document is related to it"]
    strict = pairs(Pairs(neighbours=2, least=0.99, same=1.0))
    assert all(m.thrown for m in strict if m.of.id not in ("d:0", "d:2"))
    assert Pairs(neighbours=4).makes(10) == 40 and Pairs().speakers() == ()


def test_by_states_the_nearest_are_those_of_the_models_states(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = Makes(Pairs(compare="states"))
    with torch.no_grad():
        x = tiny.reads.readers["start"].embeddings(tiny.reads.records).double()
    x = torch.nn.functional.normalize(x, dim=1).numpy()
    monkeypatch.setattr("tunewright.data.synthesize.related_pairs.CHUNK", 5)
    found = Makes(Pairs(compare="states", neighbours=1, least=-1, same=1.0)).made()
    similar = x @ x.T
    np.fill_diagonal(similar, -2)
    ids = [r.id for r in tiny.records]
    assert [m.values["related"] for m in found] == [ids[j] for j in similar.argmax(1)]


def test_runs_and_overlaps_are_those_of_sets() -> None:
    assert runs("One two, three", 2) == ["one two", "two three"] and runs("one", 3) == ["one"] and runs("!", 2) == []
    assert overlap("a b c", "b c d", 2) == pytest.approx(1 / 3) and overlap("", "", 2) == 0.0 == overlap("a", "", 1)
    assert overlap("a b", "A, b!", 5) == 1.0


def say(prompt: Any, k: int) -> Reply | str:
    return {
        "d:0": "a card was found in paris",
        "d:1": "again and again and again and again",
        "d:2": "the card was lost in london today",
        "d:3": "",
        "d:4": Reply("cash and other things that", False, 5),
        "d:5": "here and there",
    }[prompt]


def test_the_corpus_stays_and_copies_and_circles_go() -> None:
    found, writer = made(Bootstrapped(words=2, model="start", max_new_tokens=7), DOCS, say)
    assert [(m.values["text"], m.verdict) for m in found[:6]] == [(t, REAL) for t in TEXTS]
    new = {m.of.id: m for m in found[6:]}
    assert {i: m.thrown for i, m in new.items() if m.thrown} == {
        "d:1": "it goes round in circles",
        "d:2": "it says its seed again",
        "d:3": "the writer gave nothing",
    }
    assert {m.verdict for m in new.values() if not m.thrown} == {NEW}
    assert new["d:1"].scores["repeated"] == pytest.approx(1 - 2 / 6)  # again and, and again: three times each
    assert new["d:2"].scores["copied"] == pytest.approx(5 / 6) and new["d:0"].scores["copied"] == pytest.approx(1 / 5)
    assert new["d:4"].values == {"text": "cash and other things that", "seed": "d:4"}
    assert {(limit, t) for _, limit, t in writer.asked} == {(7, 1.0)}
    loose, _ = made(Bootstrapped(words=2, model="start", copied=0.9, repeated=0.7), DOCS, say)
    assert [m.of.id for m in loose if m.thrown] == ["d:3"]


def test_seeds_come_as_often_as_each_other_and_the_rest_by_lot() -> None:
    method = Bootstrapped(times=1.5, words=2, model="start")
    found, _ = made(method, DOCS, say)
    counted = Counter(m.of.id for m in found[6:])
    assert sum(counted.values()) == 9 and set(counted.values()) == {1, 2} and method.makes(6) == 15
    backwards, _ = made(method, DOCS[::-1], say)
    assert Counter(m.of.id for m in backwards[6:]) == counted, "a lot hangs on the document, not on its place"
    other, _ = made(method, DOCS, say, rng=random.Random(5))
    assert Counter(m.of.id for m in other[6:]) != counted
    few, writer = made(Bootstrapped(times=0.5, model="start"), DOCS, say)
    assert len(few) == 9 and len(writer.asked) == 3
    with pytest.raises(DataError, match="it has no text"):
        made(method, [Record({"prompt": "a"}, id="r", where="r:1")], say)


def test_what_was_learnt_from_pairs_is_what_is_asked(tmp_path: Path) -> None:
    """Three stages of a run: the corpus, pairs of it, and the corpus with what the second stage's model writes."""
    small.write_inputs(tmp_path, train=2)
    (tmp_path / "docs.txt").write_text("card lost in town\n\nlost card, lost pin\n\nfee and rate\n\nrate or fee")
    lora, docs = [{"lora": {"rank": 2}}], {"train": "docs.txt", "chat": False}
    texts = {"synthetic-bootstrapped-pretraining": {"max_new_tokens": 6, "model": "stages.relates", "repeated": 1.0}}
    stages = [
        {"name": "first", "data": docs, "methods": lora, "budget": {"steps": 1}},
        {"name": "relates", "start": "stages.first", "methods": lora, "budget": {"steps": 1},
         "data": {**docs, "synthesize": [{"related-pairs": {"least": 0.1}}]}},
        {"name": "joint", "start": "base", "data": {**docs, "synthesize": [texts]}, "methods": lora,
         "budget": {"steps": 1}},
    ]  # fmt: skip
    run(small.write_recipe(tmp_path, stages=stages, measurement__strengths=[1.0]), tmp_path / "out", quiet=True)
    head, *rows = map(json.loads, (tmp_path / "out/made/relates.jsonl").read_text().splitlines())
    assert head["kept"] == 4 and not head["writers"] and head["tokens"] == 0
    taught = {x["values"]["prompt"] for x in rows}
    head, *lines = map(json.loads, (tmp_path / "out/made/joint.jsonl").read_text().splitlines())
    assert head["verdicts"][REAL] == 4 and head["writers"]["stages.relates"]["prompts"] == 4
    asked = {x["prompt"]["asked"] for x in lines if "prompt" in x}
    assert asked == taught, "the synthesizer is asked in the words that it was taught with"
