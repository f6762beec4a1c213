"""Filters by text and by a column: what they leave out and why."""

from __future__ import annotations

import math
import random
import re

import pytest

from tunewright.catalogue import build
from tunewright.contract.method import call
from tunewright.contract.records import Record
from tunewright.data.select import near_duplicate
from tunewright.data.select._keep import how_many
from tunewright.data.select.length import Length
from tunewright.data.select.near_duplicate import NearDuplicate
from tunewright.data.select.random import RandomDraw
from tunewright.data.select.threshold import Threshold
from tunewright.errors import DataError, RecipeError
from tunewright.pieces import each_row
from tunewright.recipe import MethodUse


def records(*texts):
    return [Record({"text": t, "score": i}, id=f"r:{i}") for i, t in enumerate(texts)]


def test_length_counts_words_of_the_answer():
    rows = [*records("a b c", "", "a b c d e", "a b", "a b c d")]
    rows.append(Record({"prompt": "a b c d", "completion": "x"}, id="p"))
    found = call(Length(least=2, most=4), "select", records=rows)
    assert list(found.indices) == [0, 3, 4] and list(found.scores["words"]) == [3, 0, 5, 2, 4, 1]
    assert found.reasons == ["", "fewer than 2 words", "more than 4 words", "", "", "fewer than 2 words"]
    with pytest.raises(ValueError, match="must not be above"):
        Length(least=3, most=2)


def overlaps(texts, n, overlap):
    return list(call(NearDuplicate(words=n, overlap=overlap), "select", records=records(*texts)).scores["overlap"])


def by_pairs(texts, n, overlap):
    """The same by comparing every pair of sets."""
    kept: list[set[tuple[str, ...]]] = []
    out: list[float] = []
    for text in texts:
        words = re.findall(r"\w+", text.lower())
        mine = {tuple(words[i : i + n]) for i in range(max(1, len(words) - n + 1))}
        best = max((len(mine & other) / len(mine | other) for other in kept), default=0.0)
        out.append(best if best >= overlap else 0.0)
        if best < overlap:
            kept.append(mine)
    return out


def test_near_duplicates_are_those_of_every_pair(monkeypatch):
    monkeypatch.setattr(near_duplicate, "FIRST", 3)  # so that runs are counted several times
    monkeypatch.setattr(each_row, "WINDOW", 50)
    texts = [
        "The cat sat on the mat",
        "the cat, sat on the mat!",
        "a dog sat on the mat",
        "one",
        "One",
        "",
        "  ",
        "x y z",
    ]
    texts += [f"the cat sat on the {w}" for w in ("mat today", "roof", "mat and slept and slept")]
    texts += ["k l m n", "l m n o", "m n o p"]  # a chain: the last is near only to one that is left out
    for n in (1, 2, 3):
        for overlap in (0.2, 0.5, 0.7, 1.0):
            assert overlaps(texts, n, overlap) == pytest.approx(by_pairs(texts, n, overlap))
    assert overlaps(texts[-3:], 1, 0.5) == pytest.approx([0, 3 / 5, 0])
    rng = random.Random(0)
    drawn = [" ".join(rng.choices("a bb ccc dddd eeeee ffffff".split(), k=rng.randint(1, 12))) for _ in range(600)]
    for n, overlap in ((1, 0.6), (2, 0.3), (3, 0.75)):
        found = overlaps(drawn, n, overlap)
        assert found == pytest.approx(by_pairs(drawn, n, overlap)) and 0 < sum(x > 0 for x in found) < 600
    found = call(NearDuplicate(), "select", records=records(*texts))
    assert list(found.indices) == [0, 2, 3, 5, 7, 9, 10, 11, 12, 13]
    assert found.reasons[1] == found.reasons[8] == "says almost what an earlier record says" and not found.reasons[0]


def test_a_threshold_has_two_sides():
    found = call(Threshold(column="score", least=1, most=2), "select", records=records("a", "b", "c", "d"))
    assert list(found.indices) == [1, 2] and found.reasons == ["score below 1", "", "", "score above 2"]
    assert list(found.scores["score"]) == [0.0, 1.0, 2.0, 3.0]
    cells = [Record({**r, "score": str(r["score"])}, id=r.id) for r in records("a", "b", "c", "d")]
    assert list(call(Threshold(column="score", least=1, most=2), "select", records=cells).indices) == [1, 2]
    for value, said in (
        ("much", "no number"),
        (True, "no number"),
        (None, "is empty"),
        ("", "is empty"),
        (math.nan, "no"),
    ):
        with pytest.raises(DataError, match=said):
            call(Threshold(column="score", least=1), "select", records=[Record({"score": value}, id="x")])
    with pytest.raises(ValueError, match="without a bound"):
        Threshold(least=None)


def test_a_random_draw_is_uniform_nested_and_does_not_depend_on_places():
    rows = records(*map(str, range(40)))
    kept = call(RandomDraw(keep="25%"), "select", records=rows, rng=random.Random(3))
    assert list(kept.indices) == sorted(kept.indices) and len(kept.indices) == 10
    ids = {rows[i].id for i in kept.indices}
    turned = rows[::-1]
    again = call(RandomDraw(keep=10), "select", records=turned, rng=random.Random(3))
    assert {turned[i].id for i in again.indices} == ids
    assert {rows[i].id for i in call(RandomDraw(keep=4), "select", records=rows, rng=random.Random(3)).indices} < ids
    assert sorted(kept.scores["draw"])[:10] == sorted(kept.scores["draw"][i] for i in kept.indices)
    counts = [0] * 40
    for seed in range(400):
        for i in call(RandomDraw(keep=10), "select", records=rows, rng=random.Random(seed)).indices:
            counts[i] += 1
    assert 60 <= min(counts) and max(counts) <= 145  # 100 each, standard deviation 8.7


@pytest.mark.parametrize(
    ("keep", "left"), [("100%", 20), (1.0, 20), ("10%", 2), (0.1, 2), (1, 1), ("3", 3), (3.0, 3), (400, 20)]
)
def test_a_share_of_all_is_all_and_whole_numbers_count(keep: object, left: int) -> None:

    method = build(MethodUse(name="random", params={"keep": keep}))
    assert how_many(method.keep, 20) == left  # type: ignore[attr-defined]


@pytest.mark.parametrize("keep", ["200%", 1.5, "100.5%", 0, "0%", -1])
def test_more_than_all_and_parts_of_a_record_are_refused(keep: object) -> None:

    with pytest.raises(RecipeError, match="random.keep"):
        build(MethodUse(name="random", params={"keep": keep}))
