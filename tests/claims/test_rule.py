from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from tunewright.claims import simulate
from tunewright.claims.rule import Verdict, effects, holm, holm_verdicts, verdict

NUMBERS = st.lists(st.integers(-1000, 1000).map(lambda i: i / 100), min_size=2, max_size=9)


@pytest.mark.parametrize(
    ("values", "d", "word"),
    [
        ([0.50, 0.52, 0.48, 0.51], 0.3, "holds"),
        ([0.50, 0.52, 0.48, 0.51], 0.7, "fails"),
        ([0.50, 0.52, 0.48, 0.51], 0.5, "unclear"),
        ([-0.01, 0.01, 0.0, 0.02], -0.1, "holds"),  # non-inferiority
        ([-0.3, -0.32, -0.28, -0.31], -0.1, "fails"),
        ([0.0, 0.0, 0.0], 0.1, "fails"),  # equal in every seed
        ([0.1, 0.1, 0.1], 0.0, "holds"),
        ([0.0, 0.0, 0.0], 0.0, "unclear"),
    ],
)
def test_the_interval_against_the_smallest_effect_decides(values, d, word):
    found = verdict(values, d)
    assert found.verdict == word and found.seeds == found.usable == len(values)
    if word != "unclear":
        assert (found.interval.low > d) if word == "holds" else (found.interval.high < d)


@given(NUMBERS, st.integers(-50, 50).map(lambda i: i / 10))
def test_p_values_are_those_of_students_test_and_agree_with_the_interval(values, d):
    found = verdict(values, d)
    if len(set(values)) > 1:
        assert found.p_holds == pytest.approx(ttest_1samp(values, d, alternative="greater").pvalue, abs=1e-9)
        assert found.p_fails == pytest.approx(ttest_1samp(values, d, alternative="less").pvalue, abs=1e-9)
    if abs(found.interval.low - d) > 1e-9 and abs(found.interval.high - d) > 1e-9:
        assert found.verdict == (
            "holds" if found.interval.low > d else "fails" if found.interval.high < d else "unclear"
        )


@given(
    NUMBERS,
    st.integers(-50, 50).map(lambda i: i / 10),
    st.integers(-80, 80),
    st.sampled_from([0.25, 0.5, 2.0, 8.0]),
    st.randoms(),
)
def test_shift_scale_and_order_of_seeds_change_nothing(values, d, shift, scale, rng):
    found = verdict(values, d)
    moved = verdict([scale * (v + shift) for v in values], scale * (d + shift))
    shuffled = list(values)
    rng.shuffle(shuffled)
    assert verdict(shuffled, d).verdict == found.verdict
    if abs(found.p_holds - 0.025) > 1e-6 and abs(found.p_fails - 0.025) > 1e-6 and len(set(values)) > 1:
        assert moved.verdict == found.verdict
        assert moved.interval.low == pytest.approx(scale * (found.interval.low + shift), abs=1e-6)


@given(NUMBERS, st.integers(-50, 50).map(lambda i: i / 10))
def test_turning_every_sign_exchanges_holds_and_fails(values, d):
    other = {"holds": "fails", "fails": "holds", "unclear": "unclear"}
    assert verdict([-v for v in values], -d).verdict == other[verdict(values, d).verdict]


def test_effects_are_paired_by_seed_and_positive_where_the_method_is_better():
    assert effects([0.9, 0.8], [0.7, 0.9], "higher") == pytest.approx([0.2, -0.1])
    assert effects([3.0, 3.5], [3.2, 3.4], "lower") == pytest.approx([0.2, -0.1])
    assert effects([8.0], [10.0], "lower", relative=True) == pytest.approx([0.2])
    assert effects([None, 1.0, math.nan, math.inf], [1.0, None, 1.0, 1.0], "higher") == [None] * 4
    assert effects([1.0], [0.0], "higher", relative=True) == [None]
    with pytest.raises(ValueError):
        effects([1.0], [1.0, 2.0], "higher")


def test_a_seed_without_an_effect_is_counted_and_never_dropped():
    found = verdict([0.5, 0.52, None, 0.51, math.nan], 0.1)
    assert (
        found.verdict == "unclear"
        and (found.usable, found.seeds) == (3, 5)
        and found.reason == "2 of 5 seeds gave no effect"
    )
    assert found.interval.n == 3 and found.p == 1.0
    assert verdict([None, None], 0.1).interval is None


def test_one_seed_has_no_verdict_of_its_own():
    assert verdict([5.0], 0.1).verdict == "unclear" and "spread" in verdict([5.0], 0.1).reason


@pytest.mark.parametrize("bad", [[], {}])
def test_nothing_to_judge_is_an_error(bad):
    with pytest.raises(ValueError):
        verdict(bad, 0.1)
    with pytest.raises(ValueError):
        verdict([1.0, 2.0], math.nan)


def test_a_claim_must_hold_against_each_baseline():
    good, bad, noise = [0.50, 0.52, 0.48, 0.51], [-0.5, -0.52, -0.48, -0.51], [1.0, -1.0, 0.5, -0.6]
    assert verdict({"a": good, "b": good}, 0.1).verdict == "holds"
    found = verdict({"a": good, "b": bad}, 0.1)
    assert found.verdict == "fails" and found.against["a"].verdict == "holds" and found.interval.value < 0
    assert verdict({"a": good, "b": noise}, 0.1).verdict == "unclear"
    assert verdict({"a": good}, 0.1) == verdict(good, 0.1)


def test_failing_takes_more_when_there_are_more_baselines_to_fail_against():
    barely = [-0.10, -0.02, -0.11, -0.20, -0.03]  # fails alone, p between 0.025 / 4 and 0.025
    alone = verdict(barely, 0.0)
    assert alone.verdict == "fails" and alone.p_fails > 0.025 / 4
    good = [0.5, 0.52, 0.48, 0.51, 0.5]
    assert verdict({"a": barely, "b": good, "c": good, "d": good}, 0.0).verdict == "unclear"


def test_one_missing_seed_against_one_baseline_makes_the_whole_unclear():
    good = [0.5, 0.52, 0.48]
    found = verdict({"a": good, "b": [0.5, None, 0.48]}, 0.1)
    assert found.verdict == "unclear" and found.usable == 2 and "against b" in found.reason
    with pytest.raises(ValueError):
        verdict({"a": good, "b": good[:2]}, 0.1)


def test_holm_steps_down():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == {"a": True, "b": False, "c": False}
    assert holm({"a": 0.01, "b": 0.02, "c": 0.04}) == {"a": True, "b": True, "c": True}
    assert holm({}) == {}


@given(st.dictionaries(st.text("abcdef", min_size=1, max_size=4), st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rejects_what_bonferroni_does_and_never_a_larger_p_before_a_smaller(p):
    rejected = holm(p)
    assert all(rejected[n] for n in p if p[n] <= 0.05 / len(p))
    assert all(rejected[a] or not rejected[b] for a in p for b in p if p[a] < p[b])


def test_a_page_of_many_claims_keeps_only_what_survives():
    strong, weak = verdict([0.5, 0.51, 0.49, 0.5, 0.5], 0.0), verdict([0.1, 0.02, 0.11, 0.2, 0.03], 0.0)
    assert weak.verdict == "holds"
    page = {"strong": strong, **{f"weak{i}": weak for i in range(6)}}
    words = holm_verdicts(page)
    assert words["strong"] == "holds" and words["weak0"] == "unclear"


def test_a_verdict_is_written_and_read_back_whole():
    found = verdict({"a": [0.5, 0.52, 0.48], "b": [0.5, None, 0.1]}, 0.1)
    assert Verdict.model_validate_json(found.model_dump_json()) == found


def _share(rows, figure, what=None):
    return [rate for w, _, f, rate, _, _ in rows if f.startswith(figure) and (what is None or w.startswith(what))]


def test_coverage_and_false_verdicts_on_simulated_seeds():
    rows = list(simulate.single(1500))
    symmetric = [r for r in rows if not r[0].startswith("skewed")]
    assert all(0.93 < rate < 0.97 for rate in _share(symmetric, "interval"))
    assert all(rate < 0.037 for rate in _share(symmetric, "`holds`") + _share(symmetric, "`fails`"))


@pytest.mark.slow
def test_false_verdicts_with_several_baselines_and_on_a_page_of_many_claims():
    rows = list(simulate.several(1200))
    assert all(rate < 0.037 for rate in _share(rows, "`holds`") + _share(rows, "`fails`"))
    page = list(simulate.pages(250))
    assert all(rate < 0.085 for rate in _share(page, "any verdict, Holm")) and all(
        rate > 0.4 for rate in _share(page, "any verdict, uncorrected")
    )


@pytest.mark.slow
def test_coverage_through_matched_curves():
    rows = list(simulate.matched(400, truth_from=5000))
    assert all(0.92 < rate < 0.98 for rate in _share(rows, "interval"))
    alike = _share(rows, "`holds`", "curves, equal") + _share(rows, "`fails`", "curves, equal")
    unlike = _share(rows, "`holds`", "curves, less") + _share(rows, "`fails`", "curves, less")
    assert (
        len(alike) == len(unlike) == 8 and all(rate < 0.05 for rate in alike) and all(rate < 0.065 for rate in unlike)
    )


def test_the_table_of_figures_prints():
    text = simulate.table([("normal", 5, "interval covers the true effect", 0.951, 0.002, "95 %")])
    assert "| normal | 5 | interval covers the true effect | 95.1 % | 0.2 | 95 % |" in text


def test_power_grows_with_the_effect():
    rng = np.random.default_rng(0)
    held = [
        np.mean([verdict(list(e + rng.normal(0, 1, 8)), 0.0).verdict == "holds" for _ in range(200)])
        for e in (0.0, 0.7, 2.0)
    ]
    assert held[0] < 0.1 < held[1] < held[2] and held[2] > 0.95
