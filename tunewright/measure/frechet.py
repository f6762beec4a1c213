"""How far drawn pictures lie from those that were to be drawn: the Fréchet distance of two normal distributions.

    d = |m_1 - m_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2))

(Dowson and Landau 1982), of the means and covariances of two sets of features, as FID has it of Inception's (Heusel et
al. 2017, arXiv:1706.08500, equation 6). The features here are those of a small network that was never trained
(`tasks._random_features`), read from the texts of answers and references. Figures of different numbers of pictures do
not compare: of few, covariances are found too narrow, and the distance too far.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tunewright.contract.metric import Answered, Metric
from tunewright.tasks._parts import TO_IMAGE, UNCONDITIONAL

Values = NDArray[np.float64]


@lru_cache(16384)
def _read(text: str) -> Values:
    return np.array(json.loads(text), dtype=np.float64)


def distance(a: Values, b: Values) -> float:
    """Of two sets of features [N, D] and [M, D]; NaN of fewer than two in either."""
    if min(len(a), len(b)) < 2:
        return float("nan")
    x, y = ((v - v.mean(0)) / np.sqrt(len(v) - 1) for v in (a, b))
    # with S_1 = x^T x and S_2 = y^T y, tr (S_1 S_2)^(1/2) is the sum of the singular values of x y^T
    shared = np.linalg.svd(_root(x) @ _root(y).T, compute_uv=False).sum()
    spread = float((x**2).sum() + (y**2).sum() - 2 * shared)
    return float(((a.mean(0) - b.mean(0)) ** 2).sum()) + max(0.0, spread)


def _root(v: Values) -> Values:
    """[r, D] with the same products v^T v, of as few rows as can be."""
    return np.asarray(np.linalg.qr(v, mode="r")) if len(v) > v.shape[1] else v


def frechet(rows: Sequence[Answered]) -> float:
    """Of the answers' features to the references'."""
    said, right = (
        np.stack([_read(t) for t in texts]) for texts in zip(*((r.answer, r.reference) for r in rows), strict=True)
    )
    return distance(said, right)


def _far(answer: str, reference: str) -> float:
    """Squared distance of one drawn picture from the row's own: what is shown of a row."""
    return float(((_read(answer) - _read(reference)) ** 2).sum())


PICTURES: dict[str, Metric] = {
    "frechet_distance": Metric(
        "predicted",
        higher_is_better=False,
        compare=_far,
        figure=frechet,
        share=False,
        bounds=(0.0, float("inf")),
        unit="squared distance of features",
        tasks=(UNCONDITIONAL, TO_IMAGE),
    )
}
"""The metrics of drawn pictures by name."""
