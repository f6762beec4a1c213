from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunewright.claims.lab import corpus
from tunewright.claims.lab.corpus import Document
from tunewright.errors import DataError

TEXTS = st.lists(st.text("abc de", min_size=1, max_size=40), max_size=30)


def documents(texts):
    return [Document("s", t) for t in texts]


@given(TEXTS)
def test_no_document_is_in_both_parts_and_each_is_taken_once(texts):
    found = corpus.split(documents(texts))
    train, held = [d.text for d in found.train], [d.text for d in found.held]
    assert not set(train) & set(held)
    assert sorted(train + held) == sorted(set(texts)), "texts shorter than 13 words share no run of 13 words"


@given(TEXTS, st.randoms())
def test_a_document_keeps_its_part_in_any_order_and_company(texts, rng):
    shuffled = list(texts)
    rng.shuffle(shuffled)
    whole, part = corpus.split(documents(shuffled)), corpus.split(documents(texts[: len(texts) // 2]))
    assert {d.text for d in part.held} <= {d.text for d in whole.held}
    assert {d.text for d in corpus.split(documents(texts)).train} == {d.text for d in whole.train}


def _with_part(held, words):
    """A text of these words that is (or is not) held out."""
    return next(t for i in range(10_000) if corpus.is_held(t := f"{words} end{i}") is held)


def test_a_held_document_that_shares_thirteen_words_with_training_is_dropped():
    run = " ".join(f"w{i}" for i in range(13))
    train, held = _with_part(False, run), _with_part(True, "so " + run.upper())
    apart = _with_part(True, " ".join(f"w{i}" for i in range(12)))
    found = corpus.split(documents([train, held, apart]))
    assert [d.text for d in found.held] == [apart] and [d.text for d in found.train] == [train]
    assert found.dropped["held-out documents that share 13 words with a training document"] == 1


def test_training_documents_with_forbidden_runs_are_dropped_and_stop_forbidding():
    run = " ".join(f"w{i}" for i in range(13))
    train, held = _with_part(False, run), _with_part(True, run)
    found = corpus.split(documents([train, held]), corpus.ngrams(run))
    assert not found.train and [d.text for d in found.held] == [held]


def test_ngrams_know_no_case_and_no_punctuation():
    assert corpus.ngrams("A, b! C", 2) == {"a b", "b c"} and corpus.ngrams("a b", 3) == set()


def test_without_the_data_the_error_says_what_to_set(monkeypatch):
    monkeypatch.delenv("TUNEWRIGHT_DATA", raising=False)
    with pytest.raises(DataError, match="TUNEWRIGHT_DATA"):
        corpus.data_folder()


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("TUNEWRIGHT_DATA"), reason="needs the data sets: set TUNEWRIGHT_DATA")
def test_the_real_corpus_is_the_same_twice_and_its_parts_share_no_run_of_words():
    first, second = corpus.build(), corpus.build()
    assert first == second
    watched = set().union(*(corpus.ngrams(d.text) for d in first.held))
    assert not any(corpus.ngrams(d.text) & watched for d in first.train)
