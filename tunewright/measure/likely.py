"""Figures of how likely a classifier holds the right classes, under scikit-learn's names: `log_loss` and `roc_auc`.

Shapes: R rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tunewright.contract.metric import Answered

LEAST = float(np.finfo(np.float64).eps)
"""The least probability that counts, as scikit-learn has it."""


def _likelihoods(rows: Sequence[Any]) -> np.ndarray:
    """[R] probability of each row's right class; NaN where it is not known."""
    return np.array([np.nan if (p := getattr(r, "likelihood", None)) is None else p for r in rows], dtype=np.float64)


def log_loss(rows: Sequence[Answered]) -> float:
    """Mean -log of the right class's probability, in nats."""
    return float(-np.log(np.clip(_likelihoods(rows), LEAST, 1.0)).mean())


def roc_auc(rows: Sequence[Answered]) -> float:
    """Of two classes: how often a row of one is held likelier of it than a row of the other, ties half (the area under
    the ROC curve, Mann and Whitney's U over the pairs; either class may be the positive one). NaN where all rows are of
    one class.
    """
    from scipy.stats import rankdata

    positive = max(r.reference for r in rows)
    is_positive = np.array([r.reference == positive for r in rows])
    many = int(is_positive.sum())
    if many == len(rows):
        return float("nan")
    right = _likelihoods(rows)
    # equal ones stay equal: 1 - (1 - p) is not p in every bit
    ranks = rankdata(np.where(is_positive, right, 1.0 - right).round(12))
    return float((ranks[is_positive].sum() - many * (many + 1) / 2) / (many * (len(rows) - many)))
