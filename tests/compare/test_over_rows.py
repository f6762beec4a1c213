"""Intervals over seeds and rows beside those over seeds, in comparisons."""

from __future__ import annotations

import numpy as np
import pytest

from tests.report.test_page import assert_safe
from tests.test_compare import SEEDS, TREE, failed, judged, record
from tunewright.compare.cautions import cautions
from tunewright.compare.standing import critical
from tunewright.measure.crossed import crossed_interval, spread
from tunewright.measure.rows import RowResult
from tunewright.recipe import Recipe
from tunewright.report import compare as page
from tunewright.trials.row_scores import RowScores

ROWS = 40
BASE = np.full(ROWS, 0.1)


def table(name, gain):
    """Rows that the method finds easier or harder, the same for all seeds; seeds differ a little."""
    rng = np.random.default_rng(list(name.encode()))
    scores = 0.1 + gain + 0.4 * rng.normal(size=(1, ROWS)) + 0.05 * rng.normal(size=(len(SEEDS), ROWS))
    return scores


def results(scores):
    return [RowResult(id=str(i), score=float(s)) for i, s in enumerate(scores)]


def arm(name, gain, without=()):
    scores = table(name, gain)

    def make(seed, noise):
        kept = RowScores.of(results(BASE), results(scores[seed]))
        return record(name, seed, scores[seed].mean() - 0.1, rows=None if seed in without else kept)

    return make


def test_gains_and_differences_are_over_seeds_and_rows_too():
    made = judged(a=arm("a", 0.6), b=arm("b", 0.3))
    best, other = sorted(made.arms, key=lambda x: x.against.word != "best")
    for one in made.arms:
        wide = crossed_interval(spread(table(one.name, {"a": 0.6, "b": 0.3}[one.name]) - BASE))
        assert one.gain_over_rows.low == pytest.approx(wide.low)
        assert one.gain_over_rows.value == pytest.approx(one.gain.value)
        assert one.gain_over_rows.high - one.gain_over_rows.low > one.gain.high - one.gain.low
    gaps = table("b", 0.3) - table("a", 0.6)
    found = spread(gaps if other.name == "b" else -gaps)
    rows = other.against.over_rows
    assert rows.high - rows.value == pytest.approx(critical(2, len(SEEDS)) * found.error)
    assert rows.value == pytest.approx(other.against.difference.value) and best.against.over_rows is None
    text = assert_safe(page.html(made)).text
    assert text.count("over rows too:") == 3 and "over seeds and rows drawn at random" in text


def test_lower_is_better_turns_the_sign():
    scores = {n: table(n, g) for n, g in (("a", 0.3), ("b", 0.6))}

    def of(name):
        def make(seed, noise):
            kept = RowScores.of(results(BASE), results(BASE - (scores[name][seed] - BASE)))
            return record(name, seed, scores[name][seed].mean() - 0.1, direction="lower", rows=kept)

        return make

    made = judged(direction="lower", a=of("a"), b=of("b"))
    assert made.arm("a").gain_over_rows.value == pytest.approx(made.arm("a").gain.value)
    other = next(x for x in made.arms if x.against.word != "best")
    assert other.against.over_rows.value == pytest.approx(other.against.difference.value)


def test_records_of_before_leave_the_intervals_over_seeds_and_say_nothing_of_rows():
    made = judged(a=arm("a", 0.6), b=arm("b", 0.3, without=(2,)))
    assert made.arm("a").gain_over_rows is not None and made.arm("b").gain_over_rows is None
    assert all(x.against.over_rows is None for x in made.arms)
    none = judged(a=arm("a", 0.6, without=SEEDS), b=arm("b", 0.3, without=SEEDS))
    assert "over rows too" not in assert_safe(page.html(none)).text


def test_a_failed_run_leaves_none():
    made = judged(a=arm("a", 0.6), b=lambda s, noise: failed("b", s) if s == 1 else arm("b", 0.3)(s, noise))
    assert made.arm("b").gain_over_rows is None and made.arm("b").against.over_rows is None


def test_a_note_says_what_the_words_hang_on():
    made = judged(a=arm("a", 0.6), b=arm("b", 0.3))
    made.evaluated = ROWS
    records = {n: {s: arm(n, 0.5)(s, 0.0) for s in SEEDS} for n in "ab"}
    said = cautions(made, records, Recipe(**TREE))
    assert any("over seeds and rows a gains" in s or "over seeds and rows b gains" in s for s in said)
