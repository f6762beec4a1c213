"""DSIR: hashes and weights by hand, the same draw wherever records stand, texts like the target preferred."""

from __future__ import annotations

import hashlib
import math
import random
import re
from collections import Counter

import numpy as np
import pytest

from tunewright.catalogue import build
from tunewright.contract.records import Record
from tunewright.data.select import dsir
from tunewright.data.select._text import text_of
from tunewright.data.select.dsir import DSIR, Grams, bucket, gumbel, log_ratio, log_weights
from tunewright.errors import DataError
from tunewright.recipe import MethodUse

BANK = [
    "The card was declined at the shop",
    "my bank card does not work",
    "a transfer to the bank is late",
    "why was my card payment declined?",
]
RIVER = [
    "the river rose in spring",
    "hills and the water of a lake",
    "a boat went down the river",
    "the fish swim under the bridge",
]


def records(texts, source="s") -> list[Record]:
    return [Record({"text": t}, id=f"{source}:{i}", source=source) for i, t in enumerate(texts)]


def test_hashes_are_the_ones_that_the_paper_s_package_gives():
    assert bucket("alice") == 6720 and bucket("alice went") == 114


def by_hand(text: str, n: int = 2) -> Counter[int]:
    """Buckets of the n-grams of a text, one hash each, as the authors' package counts them."""
    words = re.findall(r"\w+|[^\w\s]+", text.lower())
    grams = [" ".join(words[i : i + k]) for k in range(1, n + 1) for i in range(len(words) - k + 1)]
    return Counter(int(hashlib.sha256(g.encode("utf-8", "surrogatepass")).hexdigest(), 16) % 10_000 for g in grams)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_runs_of_words_are_counted_in_lower_case_inside_each_text(n, monkeypatch):
    monkeypatch.setattr(dsir, "TABLE", 16)  # so that runs fall out of the table and are hashed again
    strange = ["İstanbul'da ÉTÉ ... x_1 १२ 中文字 -- a\tb\u2003c", "\ud800 half", " , ", "a" * 300]
    texts = ["Alice went, Alice", "", "one", *strange, *BANK, *RIVER, *BANK, "Alice went, alice wentt"]
    grams = Grams(n)
    for some in (texts, texts[::-1], texts[3:5]):
        buckets, text, words = grams.of(some)
        for i, t in enumerate(some):
            assert Counter(buckets[text == i].tolist()) == by_hand(t, n)
            assert words[i] == len(re.findall(r"\w+|[^\w\s]+", t.lower()))
    assert by_hand("Alice went, Alice")[6720] == 2 and by_hand("Alice went, Alice")[114] == 1


def test_weights_by_hand_and_added_over_ngrams():
    target, raw = np.array([3.0, 1.0, 0.0]), np.array([2.0, 2.0, 4.0])
    ratio = log_ratio(target, raw)
    np.testing.assert_allclose(ratio, [math.log(0.75 / 0.25), math.log(0.25 / 0.25), math.log(1e-8 / 0.5)], atol=1e-6)
    found = log_weights(np.array([0, 0, 2, 1]), np.array([0, 0, 0, 2]), ratio, 3)
    np.testing.assert_allclose(found, [2 * ratio[0] + ratio[2], 0.0, ratio[1]])
    smooth = log_ratio(target, raw, smoothing=1.0)
    np.testing.assert_allclose(smooth, np.log([4 / 7 / 0.25, 2 / 7 / 0.25, 1 / 7 / 0.5]), atol=1e-6)
    assert np.all(log_ratio(raw, raw) == 0)


def drawn_from(texts, n: int, seed: int) -> list[str]:
    words, rng = sorted({w for t in texts for w in t.split()}), random.Random(seed)
    return [" ".join(rng.choices(words, k=30)) for _ in range(n)]


def test_texts_like_the_target_are_kept_and_others_are_not():
    candidates = records([*drawn_from(RIVER, 20, 0), *drawn_from(BANK, 20, 1)])
    for target, wanted in ((drawn_from(BANK, 10, 2), range(20, 40)), (drawn_from(RIVER, 10, 3), range(20))):
        for noise in (True, False):
            kept = DSIR(keep="50%", noise=noise).select(candidates, records(target, "t"), random.Random(0)).indices
            assert kept == list(wanted)


def test_the_draw_repeats_and_does_not_depend_on_where_a_record_stands():
    candidates, target = (
        records([*RIVER, *BANK]),
        records([*RIVER, *BANK], "t"),
    )  # target = raw: every weight is 0, noise alone decides
    method = DSIR(keep=3)
    chosen = {candidates[i].id for i in method.select(candidates, target, random.Random(5)).indices}
    assert chosen == {candidates[i].id for i in method.select(candidates, target, random.Random(5)).indices}
    turned = candidates[::-1]
    assert chosen == {turned[i].id for i in method.select(turned, target, random.Random(5)).indices}
    others = {tuple(method.select(candidates, target, random.Random(s)).indices) for s in range(20)}
    assert len(others) > 5
    still = DSIR(keep=3, noise=False)
    assert len({tuple(still.select(candidates, target, random.Random(s)).indices) for s in (5, 6)}) == 1


def test_records_are_drawn_in_proportion_to_their_weights():
    """With one record drawn, its share over seeds is e^w / sum e^w: the Gumbel-max draw."""
    weights = [0.0, math.log(2.0), math.log(5.0)]
    wins = [0, 0, 0]
    for s in range(6000):
        wins[max(range(3), key=lambda i: weights[i] + gumbel(f"{s}/{i}"))] += 1
    np.testing.assert_allclose(np.array(wins) / 6000, [1 / 8, 2 / 8, 5 / 8], atol=0.025)


def test_short_records_and_shapes():
    candidates = records(["card", "card bank card bank card"])
    assert DSIR(keep=2, shortest=2).select(candidates, records(BANK, "t"), random.Random(0)).indices == [1]
    assert text_of({"prompt": "hi", "completion": "you", "label": "x"}) == "hi\nyou"
    assert (
        text_of({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "you"}]}) == "hi\nyou"
    )
    assert len(DSIR(keep=0.5).select(records([*BANK, *RIVER]), records(BANK, "t"), random.Random(0)).indices) == 4


def test_a_target_without_one_word_of_the_records_is_refused_though_buckets_meet():
    pool = records([f"pool{i} word{i}" for i in range(400)])
    aim, few = [f"aim{i} goal{i}" for i in range(400)], DSIR(keep=5, buckets=100)
    with pytest.raises(DataError, match="nothing in common"):
        few.select(pool, records(aim, "t"), random.Random(0))
    assert len(few.select(pool, records([*aim, "word7"], "t"), random.Random(0)).indices) == 5


def test_records_without_words_are_refused():
    with pytest.raises(DataError, match="target's records hold no words"):
        DSIR().select(records(BANK), [Record({"label": 1}, id="x")], random.Random(0))


def test_a_recipe_names_it():
    assert build(MethodUse(name="dsir", params={"keep": "10%"})).keep == pytest.approx(0.1)
