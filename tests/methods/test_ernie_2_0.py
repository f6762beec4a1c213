"""ERNIE 2.0's pretext rows against an oracle each: what a row says can be read off its text; and stages in a run."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import small, tiny
from tests.methods.making import made
from tunewright.contract.records import Record
from tunewright.data.synthesize.ernie_2_0 import CONNECTIVES, ERNIE2, MARK, labels_of, orders, pieces
from tunewright.errors import DataError
from tunewright.recipe import Recipe
from tunewright.runs.run import run

TEXTS = [
    "The old Ship left Bergen at dawn. Nobody saw the ship because it rained all day. Later a Fisher found it.",
    "A river runs through Rome. The Tiber floods in spring when snow melts up north. People leave then.",
    "Glass is made of sand. It melts slowly but it cools fast enough to crack. Makers in Venice knew that.",
]
RECORDS = [Record({"text": t}, id=f"t:{i}", source="t", where=f"t.jsonl:{i}") for i, t in enumerate(TEXTS)]
RECIPE = Path(__file__).parents[2] / "recipes" / "papers" / "ernie-2-0.yaml"


def rows(pretext: str, count: int = 40, records: list[Record] = RECORDS, **more: Any) -> list[tuple[str, str, Record]]:
    """(text, label, the record) of the rows of one pretext."""
    method = ERNIE2(pretexts={pretext: count}, announce=False, **more)
    found, _ = made(method, records, lambda prompt, k: "")
    return [(m.values["text"], m.values["label"], m.of) for m in found if not m.thrown]


def plain(text: str) -> str:
    return " ".join(text.replace(MARK, " ").split())


def test_pieces_are_sentences_and_long_ones_are_cut():
    assert pieces("One two three. Four?\nFive", 2) == [["One", "two"], ["three."], ["Four?"], ["Five"]]
    assert [w for p in pieces(TEXTS[0], 5) for w in p] == TEXTS[0].split()


def test_capitals_are_asked_of_lower_case_and_both_kinds_are_as_likely():
    found = rows("capitalisation", 200)
    for text, label, of in found:
        assert text == text.lower()
        before, word, _ = (part.strip() for part in text.split(MARK))
        assert before, "the first word of a sentence has a capital anyway"
        original = of["text"].lower().index(plain(text)) + len(before) + 1
        assert of["text"][original].isupper() == (label == "capital") and word[0] == of["text"][original].lower()
    assert Counter(label for _, label, _ in found)["capital"] == pytest.approx(len(found) / 2, rel=0.2)


def test_a_word_is_again_where_another_piece_has_it():
    found = rows("token-document", 100)
    assert {label for _, label, _ in found} == {"again", "once"}
    for text, label, of in found:
        word = text.split(MARK)[1].strip().strip(".").lower()
        elsewhere = [s for s in of["text"].split(". ") if plain(text).rstrip(".") != s.rstrip(".")]
        assert any(word in s.lower().rstrip(".").split() for s in elsewhere) == (label == "again"), text


@given(st.integers(2, 4))
def test_segments_put_in_the_named_order_are_a_piece_again(segments):
    known = {" ".join(p) for t in TEXTS for p in pieces(t, 24)}
    for text, label, _ in rows("reordering", 5, segments=segments):
        assert label in orders(segments)
        places = [int(k) for k in label.removeprefix("order ").split("-")]
        parts = [part.strip() for part in text.split(MARK)]
        assert " ".join(part for _, part in sorted(zip(places, parts, strict=True))) in known


def test_orders_are_drawn_by_how_many_segments_and_then_evenly():
    assert [len(orders(m)) for m in (2, 3, 4)] == [3, 9, 33] and orders(2) == ["order 1", "order 1-2", "order 2-1"]
    shares = Counter(label for _, label, _ in rows("reordering", 600))
    assert shares["order 1"] / 1800 == pytest.approx(1 / 3, rel=0.15)
    assert all(shares[o] / 1800 == pytest.approx(1 / 18, rel=0.4) for o in orders(3) if o.count("-") == 2)


def test_two_pieces_are_as_far_apart_as_the_label_says():
    found = rows("distance", 100)
    for text, label, of in found:
        parts, own = [p.strip() for p in text.split(f" {MARK} ")], [" ".join(p) for p in pieces(of["text"], 24)]
        if label == "other text":
            assert parts[0] in own and parts[1] not in own
        else:
            apart = own.index(parts[1]) - own.index(parts[0])
            assert (apart == 1) if label == "adjacent" else abs(apart) > 1
    shares = Counter(label for _, label, _ in found)
    assert all(n == pytest.approx(100, rel=0.3) for n in shares.values()) and len(shares) == 3


def test_a_connective_that_was_taken_out_is_the_label():
    found = rows("discourse", 5)
    assert {label for _, label, _ in found} == {"because", "when", "but"}
    for text, label, of in found:
        assert label in CONNECTIVES and MARK in text.split() and text.replace(MARK, label) in of["text"]


def test_rows_are_told_apart_counted_and_the_same_whatever_stands_beside_them():
    method = ERNIE2(pretexts={"distance": 1, "capitalisation": 3})
    found, _ = made(method, RECORDS, lambda prompt, k: "")
    assert Counter(m.verdict for m in found) == {"capitalisation": 9, "distance": 3} and method.makes(3) == len(found)
    assert all(m.values["text"].startswith(f"{m.values['pretext']}: ") for m in found)
    alone, _ = made(ERNIE2(pretexts={"capitalisation": 3}), RECORDS[:1], lambda prompt, k: "")
    assert [dict(m.values) for m in alone] == [dict(m.values) for m in found if m.of is RECORDS[0]][1:]


def test_what_a_text_cannot_give_is_thrown_away_with_the_reason():
    short = [Record({"text": "42"}, id="a")]
    pretexts = dict.fromkeys(("capitalisation", "token-document", "reordering", "distance", "discourse"), 1)
    found, _ = made(ERNIE2(pretexts=pretexts), short, lambda prompt, k: "")
    assert [m.thrown for m in found] == [f"the text gives no row for {p}" for p in pretexts]
    with pytest.raises(DataError, match="no text to make rows of") as error:
        made(ERNIE2(), [Record({"prompt": "x"}, id="p", where="p.jsonl:1")], lambda prompt, k: "")
    assert error.value.where == "p.jsonl:1" and "columns" in str(error.value)


def test_bad_pretexts_are_refused():
    for bad in ({}, {"masking": 1}, {"distance": 0}):
        with pytest.raises(ValueError, match="pretexts"):
            ERNIE2(pretexts=bad)


def test_the_recipe_adds_one_pretext_a_stage_and_gives_each_as_many_steps():
    """The authors' table: 20k, 10k, 10k, 10k steps of the first; 30k, 10k, 10k; 40k, 10k; 50k."""
    recipe = Recipe.load(RECIPE)
    shares = [s.data.synthesize[0].params["pretexts"] for s in recipe.stages[:-1]]
    names = list(shares[-1])
    assert [list(s) for s in shares] == [names[: i + 1] for i in range(4)]
    assert [[s.get(n) for s in shares] for n in names] == [
        [2, 1, 1, 1],
        [None, 3, 1, 1],
        [None, None, 4, 1],
        [None, None, None, 5],
    ]
    assert recipe.data.labels == [*labels_of(names), "bad", "good"]
    assert [s.start for s in recipe.stages] == ["base", *(f"stages.{s.name}" for s in recipe.stages[:-1])]


def test_the_recipe_runs_from_pretexts_to_the_task(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    tiny.bert_classifier(labels=18).save_pretrained(tmp_path / "base")
    tiny.tokenizer(encoder=True, chat=False).save_pretrained(tmp_path / "base")
    rng = random.Random(0)
    words = [*small.WORDS, *(w.title() for w in small.WORDS)]
    pages = [". ".join(" ".join(rng.choices(words, k=6)) for _ in range(3)) for _ in range(6)]
    (tmp_path / "pages.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in pages))
    for part in ("few", "test"):
        some = [{"text": f"{part} {i}", "label": ("good", "bad")[i % 2]} for i in range(6)]
        (tmp_path / f"{part}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in some))
    sets = ["model=./base", "train.threads=1", "train.precision=float32", "measurement.strengths=[1.0]"]
    sets += ["measurement.drift_sequences=2", *(f"stages.{i}.budget={{steps: 1}}" for i in range(5))]
    (tmp_path / "r.yaml").write_text(RECIPE.read_text())
    report = run(Recipe.load(tmp_path / "r.yaml", sets), tmp_path / "out", quiet=True).report
    assert report.run.status == "finished" and len(report.stages) == 5
    head, *_ = map(json.loads, (tmp_path / "out/made/distance.jsonl").read_text().splitlines())
    assert head["verdicts"]["distance"] == 30 and head["verdicts"]["capitalisation"] == 6
