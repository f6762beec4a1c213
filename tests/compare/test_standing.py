from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import studentized_range, ttest_rel

from tunewright.compare import simulate, standing
from tunewright.compare.standing import compare_with_best
from tunewright.report.compare_schema import Against

FIGURES = st.lists(st.integers(-500, 500).map(lambda i: i / 100), min_size=3, max_size=3)


@given(FIGURES, FIGURES)
def test_two_methods_are_judged_by_students_paired_test(a, b):
    found = compare_with_best({"a": a, "b": b})
    other = next(n for n in found if found[n].word != "best")
    gaps = np.subtract(a, b)
    if np.std(gaps) > 1e-6:
        p = ttest_rel(a, b).pvalue
        assert found[other].p == pytest.approx(p, abs=1e-9)
        assert found[other].word == ("behind the best" if p < 0.05 else "tied with the best")
    assert (found[other].difference.high < 0) == (found[other].word == "behind the best")


def test_the_same_method_under_many_names_ties_exactly():
    figures = [0.1, 0.5, 0.2]
    words = [v.word for v in compare_with_best({f"m{i}": figures for i in range(6)}).values()]
    assert words == ["best", *["tied with the best"] * 5]


def test_a_difference_that_two_methods_show_is_chance_among_eleven():
    """A paired p of 0.03 is what the best of eleven is ahead of some by itself."""
    values = {
        "best": [0.0] * 4,
        "near": [-0.01, -0.04, -0.05, -0.02],
        **{f"x{i}": [0.01 * (-1) ** s * (i + 1) - 0.005 for s in range(4)] for i in range(9)},
    }
    found = compare_with_best(values)
    assert found["near"].word == "tied with the best" and found["near"].p > 0.2
    assert found["near"].difference.low < 0 < found["near"].difference.high
    assert compare_with_best({k: values[k] for k in ("best", "near")})["near"].word == "behind the best"


def test_a_method_with_a_missing_run_is_unclear_and_does_not_widen_the_others_intervals():
    a, b, c = [0.5, 0.6, 0.55, 0.58], [0.1, 0.21, 0.16, 0.18], [0.9, None, 0.8, 0.85]
    found, without = compare_with_best({"a": a, "b": b, "c": c}), compare_with_best({"a": a, "b": b})
    assert found["c"].word == "unclear" and "1 of 4" in found["c"].reason
    assert found["a"].word == "best" and found["b"] == without["b"]


def test_one_seed_judges_nothing():
    found = compare_with_best({"a": [0.5], "b": [0.1]})
    assert found["a"].word == "best" and found["b"].word == "unclear"


def test_the_critical_value_grows_with_the_methods_and_lies_below_that_of_all_pairs():
    points = [standing.critical(k, 6) for k in (2, 3, 5, 10)]
    assert points == sorted(points) and points[0] == pytest.approx(2.571, abs=1e-3)
    # many seeds: the spread is known, and the best against the worst is Tukey's studentized range of a normal
    assert standing.critical(4, 200) == pytest.approx(studentized_range.ppf(0.95, 4, 10_000) / 2**0.5, rel=0.03)


def test_p_values_agree_with_the_critical_value():
    far = standing.critical(5, 6)
    assert standing.p_value(far, 5, 6) == pytest.approx(0.05, abs=0.002)
    assert standing.p_value(60.0, 5, 6) < 1e-6 < standing.p_value(8.0, 5, 6) < 0.05


def test_intervals_end_where_the_difference_of_two_shares_does():
    found = compare_with_best({"a": [0.9, 0.8], "b": [0.1, 0.7], "c": [0.5, 0.2]}, (-1.0, 1.0))
    assert found["b"].difference.low == -1.0 and found["b"].difference.high == 1.0


def _rates(rows):
    return {(k, n): rate for _, k, n, _, rate, _, _ in rows}


@pytest.mark.parametrize("shape", sorted(simulate.SAME))
def test_of_methods_that_are_the_same_one_in_twenty_comparisons_calls_any_behind(shape):
    """900 comparisons: three standard errors above 5 % is 7.2 %."""
    rates = _rates(simulate.ties(300, (2, 5, 10), (4,), (shape,)))
    assert np.mean(list(rates.values())) < 0.072 and max(rates.values()) < 0.09


def test_what_is_far_worse_does_not_loosen_the_judgement_of_the_rest():
    assert max(_rates(simulate.some(400, (6, 9), (4,))).values()) < 0.085


def test_power_grows_with_seeds_and_effect():
    few, many = (list(simulate.power(60, (5,), (n,))) for n in (4, 8))
    assert [r[4] for r in many] == sorted(r[4] for r in many) and many[-1][4] > 0.95
    assert sum(r[4] for r in few) < sum(r[4] for r in many)


def test_the_table_has_a_column_a_number_of_methods():
    rows = [("all", 2, 4, "any", 0.05, 0.01, "5 %"), ("all", 10, 4, "any", 0.04, 0.01, "5 %")]
    text = simulate.table(rows)
    assert "2 methods | 10 methods" in text and "| all | 4 | any | 5.0 % | 4.0 % | 5 % |" in text


def test_a_file_of_before_reads_what_was_not_shown_as_a_tie():
    assert Against.model_validate({"word": "likely behind the best"}).word == "tied with the best"
