from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunewright.claims.matched import Point, match


def curve(*pairs, strengths=(0.0, 0.5, 1.0)):
    return [Point(s, t, f) for s, (t, f) in zip(strengths, pairs, strict=True)]


BASELINE = curve((0.0, 3.0), (0.4, 3.1), (0.8, 3.6))
BY_HAND = 3.35 + 0.0625 * (1 / 3 - 1.4)
"""The baseline's figure at 0.6: the chord's middle, and a bend by the slopes 1/3 and 1.4 at its ends."""


def test_figures_are_read_at_the_best_target_that_both_reach():
    method = curve((0.0, 3.0), (0.3, 3.0), (0.6, 3.2))
    found = match(method, BASELINE, "higher")
    assert found.target == 0.6 and found.method == 3.2 and found.baseline == pytest.approx(BY_HAND)
    other = match(BASELINE, method, "higher")
    assert (other.method, other.baseline) == (found.baseline, found.method)


def test_a_curve_against_itself_is_equal():
    found = match(BASELINE, BASELINE, "higher")
    assert found.target == 0.8 and found.method == found.baseline == 3.6


def test_the_first_time_a_target_is_reached_counts_and_the_best_need_not_be_the_last():
    falling = curve((0.0, 3.0), (0.7, 3.2), (0.5, 3.9))
    found = match(falling, BASELINE, "higher")
    assert found.target == 0.7 and found.method == 3.2


def test_where_lower_is_better_the_curves_are_read_the_other_way():
    method = curve((3.0, 2.0), (2.5, 2.1), (2.0, 2.2))
    baseline = curve((3.0, 2.0), (2.2, 2.4), (1.5, 3.0))
    found = match(method, baseline, "lower")
    assert found.target == 2.0 and found.method == 2.2 and found.baseline == pytest.approx(2.5407, abs=1e-4)


@pytest.mark.parametrize(
    ("method", "says"),
    [
        (curve((0.0, 3.0), (0.1, 3.0), (0.2, 3.0)), "the method gains 0.2 where the other gains 0.8"),
        (curve((0.0, 3.0), (-0.1, 3.0), (-0.2, 3.0)), "no common target"),
        (curve((0.0, 3.0), (0.4, math.nan), (0.8, 3.0)), "not finite"),
        (curve((0.0, 3.0), (0.8, 3.0), strengths=(0.0, 1.0)), "2 strengths"),
        (curve((0.1, 3.0), (0.4, 3.0), (0.8, 3.0), strengths=(0.25, 0.5, 1.0)), "the base among them"),
    ],
)
def test_what_cannot_be_compared_says_why(method, says):
    found = match(method, BASELINE, "higher")
    assert found.method is None and found.target is None and says in found.reason
    assert match(BASELINE, method, "higher").method is None


def test_how_much_must_be_reached_is_a_parameter():
    slow = curve((0.0, 3.0), (0.1, 3.0), (0.2, 3.0))
    assert match(slow, BASELINE, "higher", reach=0.2).target == 0.2


def test_a_share_of_the_common_gain():
    method = curve((0.0, 3.0), (0.3, 3.0), (0.6, 3.2))
    found = match(method, BASELINE, "higher", at=0.5)
    assert (
        found.target == pytest.approx(0.3)
        and found.method == pytest.approx(3.0)
        and found.baseline == pytest.approx(3 + 0.1 * 0.84375 - 0.5 / 3 * 0.140625)
    )


CURVES = st.lists(st.tuples(st.integers(-8, 100), st.integers(0, 100)), min_size=3, max_size=5).map(
    lambda rest: [Point(0.0, 0.0, 50.0), *(Point(float(i + 1), t / 10, float(f)) for i, (t, f) in enumerate(rest))]
)


@given(CURVES, CURVES, st.integers(-50, 50), st.sampled_from([0.5, 2.0, 4.0]))
def test_exchanging_shifting_and_scaling(a, b, shift, scale):
    found, other = match(a, b, "higher"), match(b, a, "higher")
    assert (found.method, found.baseline) == (other.baseline, other.method)

    def moved(points):
        return [Point(p.strength, scale * p.target, scale * (p.figure + shift)) for p in points]

    again = match(moved(a), moved(b), "higher")
    assert (again.method is None) == (found.method is None)
    if found.method is not None:
        assert again.method == pytest.approx(scale * (found.method + shift)) and again.baseline == pytest.approx(
            scale * (found.baseline + shift)
        )
    mirrored = match(
        [Point(p.strength, -p.target, p.figure) for p in a],
        [Point(p.strength, -p.target, p.figure) for p in b],
        "lower",
    )
    assert (mirrored.method, mirrored.baseline) == (found.method, found.baseline)


@given(CURVES, CURVES)
def test_figures_lie_within_what_was_measured(a, b):
    found = match(a, b, "higher")
    if found.method is not None:
        assert min(p.figure for p in a) <= found.method <= max(p.figure for p in a)
        assert found.target <= max(p.target for p in a) and found.target <= max(p.target for p in b)
