"""Where several learning rates are tied, losses are compared at the smallest, and a note says what hangs on it."""

from __future__ import annotations

import pytest

from tests.compare.test_compute import notes
from tests.test_compare import SEEDS, judged, record
from tunewright.compare import comparison, figures
from tunewright.trials.tuning import Tuned


def test_losses_are_read_at_the_smallest_tied_rate_and_gains_at_the_best():
    made = judged(a=lambda s, n: record("a", s, 0.6 + n, lost=0.9), b=lambda s, n: record("b", s, 0.6 + n, lost=0.5))
    assert made.arm("b").lost_against.word == "best"
    records = {n: {s: record(n, s, 0.6, lost=x) for s in SEEDS} for n, x in (("a", 0.9), ("b", 0.5))}
    kept = {**records, "a": {s: record("a", s, 0.58, lost=0.2) for s in SEEDS}}
    made.arm("a").rate, made.arm("a").rates_tied = 3e-3, [1e-3, 3e-3]
    figures.fill(made, records, kept)
    a, b = made.arm("a"), made.arm("b")
    assert a.gain.value == pytest.approx(0.6) and a.lost_against.word == "best" and made.winner == "a"
    assert a.lost_at_target.value < 0.2 < 0.6 < a.lost_at_best_rate.value and b.lost_at_best_rate is None
    said = notes(made)
    assert "within the noise of tuning for a" in said and "at 0.001" in said and "at 0.003" in said
    made.arm("a").rates_tied = [3e-3]
    assert "noise of tuning" not in notes(made)


def test_only_arms_with_another_tied_rate_run_again():
    tuned = {
        "one": Tuned(rate=3e-3, tied=[1e-3, 3e-3, 9e-3]),
        "alone": Tuned(rate=3e-3, tied=[3e-3, 9e-3]),
        "none": Tuned(rate=None),
    }
    assert comparison._smaller(tuned) == {"one": 1e-3}
