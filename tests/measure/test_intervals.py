from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from tunewright.measure.intervals import (
    Interval,
    bootstrap_mean,
    bootstrap_statistic,
    fewest,
    paired_difference,
    paired_proportions,
    t_interval,
    wilson,
)


def test_wilson_matches_the_closed_form_and_is_sane_at_the_ends():
    p, n, z = 37 / 200, 200, stats.norm.ppf(0.975)
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    got = wilson(37, 200)
    assert (got.low, got.high) == pytest.approx((centre - half, centre + half))
    none, everything = wilson(0, 50), wilson(50, 50)
    assert none.low == 0 and 0 < none.high < 0.1 and 0.9 < everything.low < 1
    with pytest.raises(ValueError, match="no proportion"):
        wilson(3, 2)


def test_t_interval_is_scipys():
    x = [0.1, 0.4, 0.35, 0.2, 0.5]
    ci = stats.ttest_1samp(x, 0).confidence_interval(0.95)
    got = t_interval(x)
    assert (got.low, got.high, got.n, got.unit) == (pytest.approx(ci.low), pytest.approx(ci.high), 5, "seed")
    alone = t_interval([0.3])
    assert alone.value == 0.3 and not alone.known and alone.low is None


def test_bootstrap_is_near_scipys_bca():
    x = np.random.default_rng(1).exponential(2.0, 80)
    theirs = stats.bootstrap(
        (x,), np.mean, n_resamples=20000, method="BCa", rng=np.random.default_rng(2)
    ).confidence_interval
    got = bootstrap_mean(x, resamples=20000)
    assert got.value == pytest.approx(x.mean())
    assert got.low == pytest.approx(theirs.low, abs=0.03) and got.high == pytest.approx(theirs.high, abs=0.03)


@pytest.mark.parametrize(
    ("draw", "truth"), [(lambda g: g.normal(1.0, 2.0, 60), 1.0), (lambda g: g.exponential(1.0, 60), 1.0)]
)
def test_bootstrap_covers_the_truth_as_often_as_it_says(draw, truth):
    g, inside = np.random.default_rng(3), 0
    for i in range(300):
        ci = bootstrap_mean(draw(g), seed=i, resamples=600)
        inside += ci.low <= truth <= ci.high
    assert 0.90 <= inside / 300 <= 0.985


def test_wilson_covers_the_truth_as_often_as_it_says():
    g = np.random.default_rng(4)
    inside = [not wilson(int(g.binomial(80, 0.1)), 80).excludes(0.1) for _ in range(400)]
    assert 0.92 <= np.mean(inside) <= 0.985


def test_groups_are_resampled_whole():
    """Ten copies of each document's value are worth one document, not ten."""
    x = np.random.default_rng(5).normal(size=30)
    copies, groups = np.repeat(x, 10), np.repeat(np.arange(30), 10).tolist()
    whole, wrong, alone = bootstrap_mean(copies, groups, unit="document"), bootstrap_mean(copies), bootstrap_mean(x)
    assert (whole.low, whole.high, whole.n) == (pytest.approx(alone.low), pytest.approx(alone.high), 30)
    assert wrong.high - wrong.low < 0.5 * (whole.high - whole.low)


def test_weights_make_a_ratio_and_are_resampled_with_it():
    got = bootstrap_mean([1.0, 3.0] * 2, weights=[3, 1] * 2)
    assert got.value == pytest.approx(1.5) and got.low == 1.0 and got.high == 3.0


def test_paired_difference_is_narrower_than_the_parts():
    g = np.random.default_rng(6)
    hard = g.normal(0, 3, 100)
    a, b = hard + g.normal(0, 0.1, 100), hard + 0.5 + g.normal(0, 0.1, 100)
    d = paired_difference(a, b)
    assert d.excludes(0) and d.value == pytest.approx(0.5, abs=0.05)
    parts = bootstrap_mean(a)
    assert d.high - d.low < 0.2 * (parts.high - parts.low)
    with pytest.raises(ValueError, match="same rows"):
        paired_difference(a, b[:-1])


def test_same_inputs_same_interval_and_no_global_state():
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    x = [1.0, 2.0, 5.0, 9.0]
    assert bootstrap_mean(x) == bootstrap_mean(x) != bootstrap_mean(x, seed=1, resamples=50)
    assert (np.random.get_state()[1] == before).all()


def test_one_unit_and_equal_values():
    assert bootstrap_mean([2.0]).low is None
    flat = bootstrap_mean([2.0] * 9)
    assert (flat.low, flat.value, flat.high) == (2.0, 2.0, 2.0)
    with pytest.raises(ValueError, match=r"values\[1\] is not finite"):
        bootstrap_mean([1.0, float("nan")])


@pytest.mark.parametrize("n", [2, 4, 20, 300])
def test_rows_that_are_all_alike_say_how_far_others_may_be(n):
    """As Wilson's interval does of 0 or all of n: a share that n rows do not show may be otherwise."""
    share = wilson(0, n).high
    whole = bootstrap_mean([1.0] * n, bounds=(0.0, 1.0))
    assert (whole.low, whole.high) == (pytest.approx(1 - share), 1.0)
    half = bootstrap_mean([0.5] * n, bounds=(0.0, 1.0))
    assert (half.low, half.high) == (pytest.approx(0.5 - share / 2), pytest.approx(0.5 + share / 2))
    none = paired_difference([0.0, 1.0] * n, [0.0, 1.0] * n, bounds=(0.0, 1.0))
    assert none.value == 0 and (none.low, none.high) == (
        pytest.approx(-wilson(0, 2 * n).high),
        pytest.approx(-none.low),
    )
    always = paired_difference([0.0] * n, [1.0] * n, bounds=(0.0, 1.0))
    assert (always.low, always.high) == (pytest.approx(1 - 2 * share), 1.0)
    figure = bootstrap_statistic(lambda i: 1.0, n, bounds=(0.0, 1.0))
    assert (figure.low, figure.high) == (pytest.approx(1 - share), 1.0)
    itself = bootstrap_statistic(lambda i: 0.0, n, bounds=(0.0, 1.0), exact=True)
    assert (itself.low, itself.high) == (0.0, 0.0)


def test_rare_differences_are_covered_as_often_as_it_says():
    """Most samples of 30 rows show none of the 2 % that differ: without bounds their interval is [0, 0]."""
    rng, inside, plain = np.random.default_rng(0), 0, 0
    for _ in range(400):
        d = (rng.random(30) < 0.02).astype(float)
        inside += not paired_difference([0.0] * 30, d.tolist(), bounds=(0.0, 1.0)).excludes(0.02)
        plain += not paired_difference([0.0] * 30, d.tolist()).excludes(0.02)
    assert inside / 400 >= 0.95 and plain / 400 < 0.6


def test_few_rows_that_differ_have_newcombes_interval():
    """Newcombe 1998, table II: 50 pairs, of which 2 and 4 differ ... and as often as it says where few differ."""
    a, b = [1.0] * 36 + [1.0] * 0 + [0.0] * 12 + [0.0] * 2, [1.0] * 36 + [0.0] * 0 + [1.0] * 0 + [0.0] * 12 + [1.0] * 2
    got = paired_proportions(a, b)
    assert got.method == "Newcombe's score, paired" and got.value == pytest.approx(0.04)
    assert got.low < 0 < got.high, "two rows on one side tell nothing, as McNemar's test says"
    back = paired_proportions(b, a)
    assert (back.low, back.high) == (pytest.approx(-got.high), pytest.approx(-got.low))
    rng, score, plain = np.random.default_rng(1), 0, 0
    for _ in range(400):
        before = (rng.random(40) < 0.6).astype(float)
        flips = rng.random(40)
        after = np.where((before == 0) & (flips < 0.12), 1.0, np.where((before == 1) & (flips < 0.02), 0.0, before))
        truth = 0.4 * 0.12 - 0.6 * 0.02
        score += not paired_proportions(before.tolist(), after.tolist()).excludes(truth)
        plain += not paired_difference(before.tolist(), after.tolist()).excludes(truth)
    assert score / 400 >= 0.93 > plain / 400
    many = paired_proportions([0.0] * 30, [1.0] * 15 + [0.0] * 15)
    assert many.method == "paired bootstrap"


def test_statistic_and_mapping():
    x = np.arange(40.0)
    got = bootstrap_statistic(lambda i: float(np.median(x[i])), 40)
    assert got.value == 19.5 and got.low < 19.5 < got.high
    assert got.map(lambda v: 2 * v).value == 39.0
    assert Interval.model_validate_json(got.model_dump_json()) == got


@pytest.mark.parametrize("level", [0.8, 0.95, 0.999])
def test_units_too_few_to_reach_the_level_get_no_ends(level):
    """Of two, half of all draws are one of them twice: ends at 95 % were the two values, which hold the truth half of
    the time.
    """
    least = fewest(level)
    assert least**-least < (1 - level) / 2 <= (least - 1) ** -(least - 1)
    assert fewest(0.95) == 4
    values = [float(i * i) for i in range(least)]
    for made in (
        lambda n: bootstrap_mean(values[:n], level=level),
        lambda n: paired_difference([0.0] * n, values[:n], level=level),
        lambda n: bootstrap_statistic(lambda at: float(np.mean([values[i] for i in at])), n, level=level),
    ):
        assert not made(least - 1).known and made(least).known
    assert bootstrap_mean([1.0, 1.0], bounds=(0.0, 1.0), level=level).known, "rows alike are another way"
