"""Rows with a number: squared error, correlation of the numbers and of their ranks, and the share of variance that is
explained, by scipy and scikit-learn. Answers and references are numbers as texts: of a regression, or the cosines and
the scores of pairs.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from tunewright.contract.metric import Answered

Values = NDArray[np.float64]


def squared_error(answer: str, reference: str) -> float:
    """(answer - reference)^2 of one row."""
    return (float(answer) - float(reference)) ** 2


def absolute_error(answer: str, reference: str) -> float:
    """|answer - reference| of one row."""
    return abs(float(answer) - float(reference))


def root_mean_square(rows: Sequence[Answered]) -> float:
    """The root of the mean squared error."""
    said, right = _sides(rows)
    return float(np.sqrt(np.square(said - right).mean()))


def _sides(rows: Sequence[Answered]) -> tuple[Values, Values]:
    return np.array([float(r.answer) for r in rows]), np.array([float(r.reference) for r in rows])


def _correlation(of: Callable[[Values, Values], float], rows: Sequence[Answered]) -> float:
    said, right = _sides(rows)
    if len(rows) < 2 or not np.ptp(said) or not np.ptp(right):
        return float("nan")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nearly constant numbers
        return float(of(said, right))


def pearson(rows: Sequence[Answered]) -> float:
    """Correlation of answers and references; NaN where one side has one value alone."""
    from scipy.stats import pearsonr

    return _correlation(lambda a, b: pearsonr(a, b).statistic, rows)


def spearman(rows: Sequence[Answered]) -> float:
    """Correlation of their ranks, equal numbers sharing theirs; NaN where one side has one value alone."""
    from scipy.stats import spearmanr

    return _correlation(lambda a, b: spearmanr(a, b).statistic, rows)


def r2(rows: Sequence[Answered]) -> float:
    """1 - squared error / variance of the references; NaN where these are all equal."""
    from sklearn.metrics import r2_score

    said, right = _sides(rows)
    return float(r2_score(right, said)) if len(rows) > 1 and np.ptp(right) else float("nan")
