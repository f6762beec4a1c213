"""The quality classifier: counts by hand, scikit-learn's fit, what is like the target kept, Pareto's draw."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from tunewright.catalogue import build
from tunewright.contract.method import call
from tunewright.contract.records import Record
from tunewright.data.select import quality_classifier
from tunewright.data.select.quality_classifier import QualityClassifier, learnt, lomax, vectors
from tunewright.errors import DataError, RecipeError
from tunewright.recipe import MethodUse

GOOD = "the card was declined at the shop and the bank payment is late".split()
POOR = "click here buy now cheap pills win free prize subscribe today".split()
BOTH = "a of in on it we you they some more".split()


def texts(words, n, seed, length=12):
    rng = random.Random(seed)
    return [" ".join(rng.choices(words + BOTH, k=length)) for _ in range(n)]


def records(some, source="pool"):
    return [Record({"text": t}, id=f"{source}:{i}", source=source) for i, t in enumerate(some)]


def selected(method, pool, target, seed=0):
    return call(method, "select", records=pool, target=target, rng=random.Random(seed))


def mixed(n=60):
    pool = records(texts(GOOD, n, 1), "good") + records(texts(POOR, n, 2), "poor")
    random.Random(0).shuffle(pool)
    return pool


def test_vectors_are_counts_of_runs_of_words_of_length_one():
    some = ["Card card, lost", "", "one", "x y z " * 40]
    for n in (1, 2, 3):
        x = vectors(some, n).toarray()
        for row, words in zip(x, [["card", "card", ",", "lost"], [], ["one"], "x y z".split() * 40], strict=True):
            grams = Counter(tuple(words[i : i + k]) for k in range(1, n + 1) for i in range(len(words) - k + 1))
            counts = np.array(sorted(grams.values()), float)
            np.testing.assert_allclose(np.sort(row[row > 0]), counts / max(1.0, np.linalg.norm(counts)))
    alone = np.concatenate([vectors([t], 2).toarray() for t in some])
    np.testing.assert_array_equal(vectors(some, 2).toarray(), alone)


def test_it_is_scikit_learn_s_fit_with_classes_of_equal_weight():
    target, pool = vectors(texts(GOOD, 5, 0), 1), vectors(texts(POOR, 40, 1), 1)
    w, b = learnt(target, pool, 0.5)
    theirs = LogisticRegression(C=2.0, class_weight={1: 45 / 10, 0: 45 / 80}, max_iter=300)
    theirs.fit(np.concatenate([target.toarray(), pool.toarray()]), [1] * 5 + [0] * 40)
    np.testing.assert_allclose(w, theirs.coef_[0], atol=1e-3)
    assert b == pytest.approx(theirs.intercept_[0], abs=1e-3)


def test_rows_like_the_target_stay_in_their_order_with_a_score_each():
    pool = mixed()
    found = selected(QualityClassifier(keep=0.5), pool, records(texts(GOOD, 30, 9), "like"))
    assert [pool[i].source for i in found.indices].count("good") >= 57 and len(found.indices) == 60
    assert list(found.indices) == sorted(found.indices)
    scores = found.scores["quality"]
    assert min(scores[i] for i in found.indices) >= max(s for i, s in enumerate(scores) if i not in found.indices)
    assert all(0 < s < 1 for s in scores)
    assert {found.reasons[i] for i in range(120) if i not in found.indices} == {"score below those kept"}
    assert not any(found.reasons[i] for i in found.indices)


def test_a_pool_that_is_like_the_target_is_not_told_from_it():
    """A classifier that had learnt the rows it judges would score them far below rows that it never saw."""
    words = [f"w{i}" for i in range(3000)]
    pool, target = records(texts(words, 300, 1, 40)), records(texts(words, 300, 2, 40), "like")
    scores = np.array(selected(QualityClassifier(penalty=0.01), pool, target).scores["quality"])
    w, b = learnt(vectors([r["text"] for r in target], 2), vectors([r["text"] for r in pool], 2), 0.01)
    seen = 1 / (1 + np.exp(-(vectors([r["text"] for r in pool], 2) @ w + b)))
    assert seen.mean() < 0.1 and scores.mean() > 0.3


def test_pareto_noise_is_gpt_3_s_rule():
    rng = np.random.default_rng(0)
    own = np.array([lomax(u, 9.0) for u in rng.random(20000)])
    for t in (0.05, 0.2, 0.5):
        assert np.mean(own > t) == pytest.approx((1 + t) ** -9, abs=0.01)
    pool, like = mixed(300), records(texts(GOOD, 30, 9), "like")
    top, drawn = selected(QualityClassifier(), pool, like), selected(QualityClassifier(pareto=3), pool, like)
    assert list(top.scores["quality"]) == list(drawn.scores["quality"])
    expected = sum((2 - s) ** -3 for s in drawn.scores["quality"])
    assert len(drawn.indices) == pytest.approx(expected, abs=4 * expected**0.5)
    kept = Counter(pool[i].source for i in drawn.indices)
    assert kept["good"] > 1.5 * kept["poor"] > 0
    turned = selected(QualityClassifier(pareto=3), pool, like, seed=1)
    assert set(turned.indices) != set(drawn.indices)
    assert {r for r in drawn.reasons if r} == {"not drawn by its score"}
    with pytest.raises(RecipeError, match="write one of them"):
        build(MethodUse(name="quality-classifier", params={"keep": 0.5, "pareto": 9}))


def test_what_is_learnt_is_bounded_and_read_in_rising_order(monkeypatch):
    seen, fit = [], learnt
    monkeypatch.setattr(quality_classifier, "learnt", lambda t, p, c: seen.append((t, p)) or fit(t, p, c))
    asked = []

    class Watched(list):
        def __getitem__(self, i):
            asked.append(i)
            return super().__getitem__(i)

    pool = Watched(mixed())
    selected(QualityClassifier(rows=20), pool, records(texts(GOOD, 90, 9), "like"))
    assert sum(p.shape[0] for _, p in seen) == 20 and {t.shape[0] for t, _ in seen} == {20}
    assert len(asked) == 20 and asked == sorted(set(asked))
    seen.clear()
    long = "y " * quality_classifier.CHARACTERS
    selected(QualityClassifier(ngrams=1), records([long + "z"]), records(["z y"], "like"))
    (_, first), (_, second) = seen  # one row: it is in one half, and the other learns from it too
    assert first.nnz == second.nnz == 1


def test_ngrams_and_penalty_are_read():
    pool, like = mixed(), records(texts(GOOD, 30, 9), "like")
    base, *others = (
        list(selected(QualityClassifier(**p), pool, like).scores["quality"])
        for p in ({}, {"ngrams": 1}, {"penalty": 9})
    )
    assert base not in others and others[0] != others[1]
    assert np.ptp(others[1]) < np.ptp(base)


@pytest.mark.parametrize(
    ("pool", "like", "what"), [(["..", ""], ["a"], None), (["", " "], ["a"], "choose"), (["a"], [""], "target")]
)
def test_no_words_are_refused_in_one_message(pool, like, what):
    if what is None:
        selected(QualityClassifier(), records(pool), records(like, "like"))
        return
    with pytest.raises(DataError, match=f"{what}.* hold no words"):
        selected(QualityClassifier(), records(pool), records(like, "like"))
