from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t

from tunewright.claims import simulate_rows
from tunewright.measure.crossed import crossed_interval, spread
from tunewright.measure.intervals import t_interval


def plain(x):
    """(standard error, degrees of freedom) by sums over cells, written out."""
    seeds, rows = x.shape
    grand = x.mean()
    a = sum((x[s].mean() - grand) ** 2 for s in range(seeds)) * rows / (seeds - 1)
    b = sum((x[:, r].mean() - grand) ** 2 for r in range(rows)) * seeds / (rows - 1)
    rest = [
        (x[s, r] - x[s].mean() - x[:, r].mean() + grand) ** 2 / ((seeds - 1) * (rows - 1))
        for s in range(seeds)
        for r in range(rows)
    ]
    e, total = sum(rest), a + b - sum(rest)
    known = a**2 / (seeds - 1) + b**2 / (rows - 1) + e**2 / ((seeds - 1) * (rows - 1))
    return (total / (seeds * rows)) ** 0.5, total**2 / known


def test_it_is_the_two_way_table_written_out():
    x = simulate_rows.Normal(0.5, 1.0).draw(np.random.default_rng(1), 5, 12)
    found, (error, df) = spread(x), plain(x)
    assert (found.mean, found.error, found.df) == pytest.approx((x.mean(), error, df))
    ends = crossed_interval(found)
    assert (ends.low, ends.high) == pytest.approx((x.mean() - t.ppf(0.975, df) * error, 2 * x.mean() - ends.low))


def test_where_rows_do_not_differ_it_is_the_interval_over_seeds():
    x = np.array([[0.1], [0.4], [0.2]]) + np.zeros((3, 7))
    both, alone = crossed_interval(spread(x)), t_interval([0.1, 0.4, 0.2])
    assert (both.low, both.high, both.value) == pytest.approx((alone.low, alone.high, alone.value))


def test_where_seeds_do_not_differ_it_is_the_interval_over_rows():
    rows = np.random.default_rng(2).normal(size=40)
    both, alone = crossed_interval(spread(np.tile(rows, (4, 1)))), t_interval(list(rows))
    assert (both.low, both.high) == pytest.approx((alone.low, alone.high))


def test_weights_are_what_rows_count():
    """A row that counts twice moves the mean as two rows do, and one that counts nothing not at all."""
    x = np.random.default_rng(3).normal(size=(4, 6))
    weights = np.array([2.0, 1.0, 1.0, 1.0, 1.0, 0.0])
    found = spread(x, weights)
    assert found.mean == pytest.approx((x @ weights).mean() / weights.sum())
    changed = x.copy()
    changed[:, 5] = 100.0
    assert spread(changed, weights).error == pytest.approx(found.error)
    assert spread(x, np.ones(6)) == spread(x)


def test_it_ends_where_the_figure_does_and_refuses_what_has_no_spread():
    x = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    assert crossed_interval(spread(x), bounds=(0.0, 1.0)).high == 1.0
    for bad in (np.ones((1, 5)), np.ones((5, 1)), np.full((3, 3), np.nan)):
        with pytest.raises(ValueError, match="seeds, rows"):
            spread(bad)


@pytest.mark.parametrize("shape", sorted(simulate_rows.SHAPES))
def test_it_covers_as_often_as_it_says(shape):
    """300 tables: three standard errors are 3.8 points."""
    (found,) = simulate_rows.coverage(300, (4,), (100,), (shape,))
    assert 0.912 < found.both <= 1.0


def test_the_interval_over_seeds_does_not_know_of_rows():
    (found,) = simulate_rows.coverage(200, (16,), (100,), ("normal, rows matter more",))
    assert found.alone < 0.6 < 0.9 < found.both
    text = simulate_rows.table([found])
    assert "100 rows" in text and f"({100 * found.alone:.0f} %)" in text
