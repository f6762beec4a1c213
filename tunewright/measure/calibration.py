"""Calibration: are answers given with confidence p right in a share p of the rows? (Guo et al. 2017, arXiv:1706.04599.)

Expected calibration error: rows are put in bins of equal width by confidence; the mean over rows of
|accuracy of the bin - mean confidence of the bin|. It needs a confidence for every answer: a class's probability, or
the share of the chosen label when a causal model chooses among labels by likelihood.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from pydantic import Field, PositiveInt

from tunewright.contract.method import Method
from tunewright.errors import MethodError
from tunewright.measure.intervals import SHARE, Interval, bootstrap_mean, bootstrap_statistic, wilson
from tunewright.measure.probe import ProbeResult, Side, Value
from tunewright.measure.rows import RowResult


def bins_of(confidence: np.ndarray, bins: int) -> np.ndarray:
    """The bin of each confidence: ((i / bins, (i + 1) / bins], with 0 in the first."""
    return np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)


def expected_calibration_error(
    confidence: Sequence[float] | np.ndarray, correct: Sequence[float] | np.ndarray, bins: int = 15
) -> float:
    """ECE in 0..1 from each row's confidence (0..1) and whether it was right (0 or 1)."""
    c, r = np.asarray(confidence, float), np.asarray(correct, float)
    which = bins_of(c, bins)
    gaps = np.bincount(which, r - c, minlength=bins)
    return float(np.abs(gaps).sum() / len(c))


def _right_or_wrong(scores: np.ndarray) -> bool:
    return bool(np.isin(scores, (0.0, 1.0)).all())


class Calibration(Method):
    """How far confidence is from being right, before and after."""

    bins: PositiveInt = Field(15, description="number of bins of equal width over confidences 0..1")

    papers: ClassVar[tuple[str, ...]] = ()

    def probe(self, base: Side, tuned: Side) -> ProbeResult:
        """ECE of both sides on the first kind of answers that has confidences. MethodError when none has."""
        sides = {"base": self._confident(base), "tuned": self._confident(tuned)}
        values: dict[str, Value | Interval] = {}
        rows: list[list[Value]] = []
        for name, answers in sides.items():
            c = np.array([a.confidence for a in answers], dtype=float)
            r = np.array([a.score for a in answers])
            values[f"{name}_expected_calibration_error"] = self._interval(c, r)
            values[f"{name}_mean_confidence"] = bootstrap_mean(c)
            values[f"{name}_accuracy"] = wilson(round(r.sum()), len(r)) if _right_or_wrong(r) else bootstrap_mean(r)
            which = bins_of(c, self.bins)
            for i in sorted(set(which.tolist())):
                at = which == i
                rows.append(
                    [
                        name,
                        f"{i / self.bins:.2f}-{(i + 1) / self.bins:.2f}",
                        int(at.sum()),
                        float(c[at].mean()),
                        float(r[at].mean()),
                    ]
                )
        return ProbeResult(
            title="Calibration",
            description=(
                f"Expected calibration error over {self.bins} bins: 0 means that answers given with "
                "confidence p are right in a share p of the rows."
            ),
            values=values,
            columns=["model", "confidence", "rows", "mean confidence", "accuracy"],
            rows=rows,
        )

    def _interval(self, confidence: np.ndarray, correct: np.ndarray) -> Interval:
        return bootstrap_statistic(
            lambda i: expected_calibration_error(confidence[i], correct[i], self.bins), len(confidence), bounds=SHARE
        )

    def _confident(self, side: Side) -> Sequence[RowResult]:
        for answers in side.answers.values():
            if answers and all(a.confidence is not None for a in answers):
                return answers
        remedy = (
            "use a classification task, or rows whose answers are a few labels (then both models choose by likelihood)"
        )
        raise MethodError("no answers come with a confidence", where="calibration", remedy=remedy)
