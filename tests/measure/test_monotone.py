from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import PchipInterpolator

from tunewright.measure import monotone

POINTS = st.lists(st.tuples(st.integers(1, 20), st.integers(-50, 50)), min_size=2, max_size=7)


def curve(points):
    x, at = [], 0.0
    for gap, _ in points:
        at += gap / 8
        x.append(at)
    return x, [value / 10 for _, value in points]


@given(POINTS, st.floats(0, 1))
def test_it_is_scipys_pchip(points, share):
    x, y = curve(points)
    known, tangents = PchipInterpolator(x, y), monotone.slopes(x, y)
    assert tangents == pytest.approx(list(known.derivative()(x)), abs=1e-9)
    for i in range(1, len(x)):
        at = x[i - 1] + share * (x[i] - x[i - 1])
        assert monotone.between(x, y, tangents, i, at) == pytest.approx(float(known(at)), abs=1e-9)


@given(POINTS, st.floats(0.01, 0.99))
def test_where_a_value_is_reached(points, share):
    x, y = curve(points)
    for i in range(1, len(x)):
        value = y[i - 1] + share * (y[i] - y[i - 1])
        if y[i] != y[i - 1]:
            at = monotone.reach(x, y, i, value)
            assert x[i - 1] <= at <= x[i]
            assert monotone.between(x, y, monotone.slopes(x, y), i, at) == pytest.approx(value, abs=1e-6)
