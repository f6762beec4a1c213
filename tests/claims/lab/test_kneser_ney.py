from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunewright.claims.lab.kneser_ney import KneserNey, discounts

STREAMS = st.lists(st.integers(0, 4), min_size=6, max_size=60).map(np.array)


@given(STREAMS, st.lists(st.integers(0, 4), min_size=2, max_size=2), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_after_any_history_the_probabilities_sum_to_one(tokens, history, order):
    model = KneserNey(tokens, 5, order)
    p = [model.probabilities(np.array([*history, w])[-order:])[-1] for w in range(5)]
    assert sum(p) == pytest.approx(1, abs=1e-12) and min(p) > 0


def test_a_bigram_equals_the_formula_worked_out_by_hand():
    """Tokens 0 1 0 2 0 1: with counts too few for estimates, D = 0.5 (once), 1 (twice)."""
    model = KneserNey(np.array([0, 1, 0, 2, 0, 1]), 3, 2)
    # continuation counts: 0 after {1, 2}: 2; 1 after {0}: 1; 2 after {0}: 1; four different bigrams
    left = (1 + 0.5 + 0.5) / 4
    lower = [(2 - 1) / 4 + left / 3, 0.5 / 4 + left / 3, 0.5 / 4 + left / 3]
    # after 0: 1 twice, 2 once
    gamma = (1 + 0.5) / 3
    assert model.probabilities(np.array([0, 1]))[0] == pytest.approx((2 - 1) / 3 + gamma * lower[1])
    assert model.probabilities(np.array([0, 0]))[0] == pytest.approx(gamma * lower[0])


def test_discounts_are_those_of_chen_and_goodman():
    counts = np.array([1] * 10 + [2] * 4 + [3] * 2 + [4])
    y = 10 / 18
    assert discounts(counts) == pytest.approx((1 - 2 * y * 0.4, 2 - 3 * y * 0.5, 3 - 4 * y * 0.5))


def test_a_repeated_text_is_nearly_certain_and_an_unseen_history_falls_back():
    tokens = np.tile(np.arange(8), 200)
    model = KneserNey(tokens, 8, 3)
    assert model.nats(tokens) < 0.05
    after = [model.probabilities(np.array([first, 3, 4]))[0] for first in (2, 5, 7)]
    assert after[1] == after[2] < after[0], "an unseen history leaves everything to the shorter one"


def test_ids_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="64"):
        KneserNey(np.zeros(10, dtype=int), 1 << 16, 5)
