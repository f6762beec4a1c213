"""kNN by words: vectors equal scikit-learn's, and the union is that of every pair of texts compared."""

from __future__ import annotations

import random

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from tunewright.contract.method import call
from tunewright.contract.records import Record
from tunewright.data.neighbours import by_words
from tunewright.data.select.knn import KNN
from tunewright.errors import DataError

WORDS = "card lost fee top up cash abroad pin rate loan".split()


def records(name, count, seed):
    rng = random.Random(seed)
    return [Record({"text": " ".join(rng.choices(WORDS, k=6))}, id=f"{name}:{i}") for i in range(count)]


def sklearn_vectors(texts):
    return TfidfVectorizer(token_pattern=r"\w+", lowercase=True).fit_transform(texts).toarray()


def test_vectors_are_those_of_scikit_learn():
    texts = ["Lost card, lost PIN", "cash fee", "the fee of the card", "pin"]
    own, theirs = by_words(texts).toarray(), sklearn_vectors(texts)
    np.testing.assert_allclose(own @ own.T, theirs @ theirs.T, atol=1e-12)  # columns stand in another order
    assert by_words(["", "a"]).toarray()[0].tolist() == [0.0]


@pytest.mark.parametrize("k", [1, 3])
def test_the_union_of_every_target_s_nearest_is_kept_nearest_first(k):
    pool, target = records("pool", 40, 0), records("target", 4, 1)
    found = call(KNN(k=k), "select", records=pool, target=target)
    texts = [r["text"] for r in (*pool, *target)]
    similar = (lambda v: v[40:] @ v[:40].T)(sklearn_vectors(texts))
    order = [sorted(range(40), key=lambda i: (-round(row[i], 12), i))[:k] for row in similar]
    expected = {i for row in order for i in row}
    assert set(found.indices) == expected and len(found.indices) < 4 * k + 1
    firsts = {row[0] for row in order}
    assert set(found.indices[: len(firsts)]) == firsts  # the nearest of some target row stand first
    np.testing.assert_allclose(found.scores["similarity"], similar.max(0), atol=1e-12)
    assert [bool(r) for r in found.reasons] == [i not in expected for i in range(40)]


def test_the_task_s_own_texts_stay_and_take_no_place():
    own = Record({"text": "lost card"}, id="task:0")
    pool = [own, *(Record({"text": t}, id=f"p:{i}") for i, t in enumerate(["lost cash", "rate loan", "a card lost"]))]
    found = call(KNN(k=1), "select", records=pool, target=[own])
    assert list(found.indices) == [0, 3] and found.reasons[2].startswith("none of the 1 nearest")
    strangers = [Record({"text": "rate"}, id="x"), Record({"text": "loan"}, id="y")]
    assert list(call(KNN(k=2), "select", records=[*strangers, own], target=[own]).indices) == [2]
    with pytest.raises(DataError, match="shares a word"):
        call(KNN(k=1), "select", records=strangers, target=[own])
    with pytest.raises(DataError, match="none to choose"):
        call(KNN(k=1), "select", records=[own, own], target=[own])
