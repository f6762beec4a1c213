"""Bounds for what was picked out of K: against numbers by hand, scipy's roots and tails, and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import beta, binom

from tunewright.pieces import certificates


def test_they_are_the_numbers_of_the_formulas_by_hand():
    # ln(1000 / 0.05) = 9.9035; / 128 = 0.07737; its root 0.27816. 1 - exp(-9.9035 / 64) = 0.14336
    assert certificates.hoeffding(0, 64, 1000, 0.05) == pytest.approx(0.27816, abs=1e-5)
    assert certificates.hoeffding(16, 64, 1000, 0.05) == pytest.approx(0.52816, abs=1e-5)
    assert certificates.chernoff(0, 64, 1000, 0.05) == pytest.approx(0.14336, abs=1e-5)
    assert certificates.binomial(0, 64, 1000, 0.05) == pytest.approx(1 - (0.05 / 1000) ** (1 / 64), rel=1e-9)
    # the paper's setting: 16 rows of 5 classes, 20,000 draws, or about 1,000 numbers that are searched
    assert certificates.hoeffding(0, 80, 20_000, 0.05) == pytest.approx(0.284, abs=1e-3)
    assert certificates.continuous(80, 1000, 0.05) == pytest.approx(
        math.sqrt((1000 + 13.8155 + 2.9957) / 160), abs=1e-4
    )


def test_one_hypothesis_of_one_row_is_the_plain_tail():
    assert certificates.binomial(0, 1, 1, 0.05) == pytest.approx(0.95)
    assert certificates.hoeffding(0, 1, 1, 0.05) == 1.0  # 1.22, and an error is at most 1


@pytest.mark.parametrize("n", (5, 40, 700))
@pytest.mark.parametrize("hypotheses", (1, 1000))
def test_they_agree_with_scipy_and_none_is_tighter_than_the_binomial(n: int, hypotheses: int):
    for errors in {0, 1, n // 3, n - 1, n}:
        for failure in (0.05, 0.01):
            of = (errors, n, hypotheses, failure)
            tight, middle, loose = certificates.binomial(*of), certificates.chernoff(*of), certificates.hoeffding(*of)
            assert errors / n <= tight <= middle + 1e-12 and middle <= loose + 1e-12
            if errors == n:
                assert tight == middle == loose == 1
                continue
            assert tight == pytest.approx(float(beta.ppf(1 - failure / hypotheses, errors + 1, n - errors)), rel=1e-6)
            assert float(binom.cdf(errors, n, tight)) == pytest.approx(failure / hypotheses, rel=1e-6)
            limit = math.log(hypotheses / failure) / n
            if certificates.kl(errors / n, 1 - 1e-12) > limit:
                root = brentq(
                    lambda p, e=errors, c=limit: certificates.kl(e / n, p) - c, max(errors / n, 1e-12), 1 - 1e-12
                )
                assert middle == pytest.approx(float(root), abs=1e-6)


def test_what_is_picked_by_the_rows_that_certify_it_errs_more_than_that_in_few_tasks():
    """200 hypotheses that all err at one rate, of which the luckiest is picked: the bounds hold; one that forgets the
    200 does not."""
    rng, tasks, failure, hypotheses, n = np.random.default_rng(0), 2000, 0.05, 200, 40
    for rate in (0.1, 0.3, 0.5):
        picked = rng.binomial(n, rate, (tasks, hypotheses)).min(1)
        for bound in (certificates.binomial, certificates.chernoff, certificates.hoeffding):
            broken = np.mean([bound(int(e), n, hypotheses, failure) < rate for e in picked])
            assert broken <= failure + 3 * math.sqrt(failure * (1 - failure) / tasks), (bound, rate)
        alone = np.mean([certificates.binomial(int(e), n, 1, failure) < rate for e in picked])
        assert alone > 0.5, "what forgets that it picked should be wrong here, or this shows nothing"
    # where hypotheses err independently, the union bound is nearly exact: it is not simply loose
    many = rng.binomial(n, 0.3, (20_000, hypotheses)).min(1)
    broken = float(np.mean([certificates.binomial(int(e), n, hypotheses, failure) < 0.3 for e in many]))
    assert 0.01 < broken <= failure


def test_what_is_no_count_is_refused():
    for of in ((-1, 10, 5, 0.05), (11, 10, 5, 0.05), (0, 0, 5, 0.05), (0, 10, 0, 0.05), (0, 10, 5, 0.0)):
        with pytest.raises(ValueError, match="no bound"):
            certificates.binomial(*of)
