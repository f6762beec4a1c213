"""What a sequence of tasks gained, kept and lost, from the matrix of a metric R [T+1, T]: row 0 the base, row i after
task i; column j the rows of task j.

    accuracy (ACC)         mean_j R[T, j]                                         [1]
    incremental accuracy   mean_i mean_(j <= i) R[i, j]                           [2]
    backward transfer      mean_(j < T) s (R[T, j] - R[j, j])                     [1]
    forward transfer       mean_(j > 1) s (R[j-1, j] - R[0, j])                   [1]
    forgetting             mean_(j < T) (max_(1 <= i < T) s R[i, j] - s R[T, j])  [3]
    accumulation           mean_j s (R[S, j] - R[1, j]), of S stages that have several of the tasks each  [4]

[1] Lopez-Paz & Ranzato 2017, arXiv:1706.08840. [2] Rebuffi et al. 2017 (iCaRL), arXiv:1611.07725. [3] Chaudhry et al.
2018, arXiv:1801.10112. [4] After Lesort et al. 2022 (SCoLe), arXiv:2207.04543. Here s = 1, or -1 of a metric of which
less is better (a loss), so that transfer above 0 is always good and forgetting above 0 always bad. Tasks count alike,
however many rows they have: iCaRL and PILOT take the mean over rows of all tasks seen, which is the same where tasks
have equally many. Intervals: each task's rows are drawn again, the same in every row of the matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from tunewright.measure.intervals import RESAMPLES, Bounds, Interval, of_draws
from tunewright.measure.metrics import get_metric
from tunewright.measure.rows import RowResult
from tunewright.measure.target import bounds_of, summary

Array = NDArray[np.float64]
FEWER = 200
"""Times that rows are drawn again where a metric is no mean over rows."""
_BLOCK = 4_000_000


def accuracy(R: Array, sign: float = 1.0) -> Array:
    """Mean over tasks after the last one, of R [..., S, T]."""
    return np.asarray(R[..., -1, :].mean(-1))


def incremental_accuracy(R: Array, sign: float = 1.0) -> Array:
    """Mean over i of the mean over the tasks seen by then, of R [..., T+1, T]."""
    return np.mean([R[..., i, :i].mean(-1) for i in range(1, R.shape[-2])], axis=0)


def backward_transfer(R: Array, sign: float = 1.0) -> Array:
    """How learning later tasks changed earlier ones, of R [..., T+1, T]; above 0: for the better."""
    T = R.shape[-1]
    return np.mean([sign * (R[..., T, j] - R[..., j + 1, j]) for j in range(T - 1)], axis=0)


def forward_transfer(R: Array, sign: float = 1.0) -> Array:
    """What earlier tasks gave to a task before it was learnt, beside the base, of R [..., T+1, T]."""
    return np.mean([sign * (R[..., j, j] - R[..., 0, j]) for j in range(1, R.shape[-1])], axis=0)


def forgetting(R: Array, sign: float = 1.0) -> Array:
    """How far tasks lie at the end below the best that they ever were after a task, of R [..., T+1, T]."""
    T = R.shape[-1]
    earlier, last = sign * R[..., 1:T, : T - 1], sign * R[..., T, : T - 1]
    return np.asarray((earlier.max(-2) - last).mean(-1))


FIGURES: dict[str, Callable[[Array, float], Array]] = {
    "accuracy": accuracy,
    "incremental_accuracy": incremental_accuracy,
    "backward_transfer": backward_transfer,
    "forward_transfer": forward_transfer,
    "forgetting": forgetting,
}


def accumulation(R: Array, sign: float = 1.0) -> Array:
    """What is known of all tasks at the end beyond what was known after the first stage, of R [..., S+1, T]."""
    return np.asarray(sign * (R[..., -1, :] - R[..., 1, :]).mean(-1))


CHANGES = ("backward_transfer", "forward_transfer", "forgetting", "accumulation")
"""Those that are differences of two figures."""


def cells(
    readings: Sequence[Sequence[RowResult]], owners: Sequence[int], metric: str, tasks: int
) -> list[list[Interval | None]]:
    """The matrix with an interval in each cell, None for a task without rows. `readings`: the same rows, read at the
    base and after each task; `owners`: the task of each row, below `tasks`.
    """
    places = _places(owners, tasks)
    return [[summary([rows[i] for i in at], metric) if at else None for at in places] for rows in readings]


def figures(
    readings: Sequence[Sequence[RowResult]],
    owners: Sequence[int],
    metric: str,
    tasks: int,
    *,
    recurring: bool = False,
    seed: int = 0,
) -> dict[str, Interval]:
    """Each of `FIGURES` with its interval; of readings that are not one after each task, or where a task has no rows,
    `accuracy` alone, over the tasks that have any. Of stages in which tasks are `recurring`: that and `accumulation`.
    """
    m = get_metric(metric)
    draw = _drawn_means if m.figure is None else _drawn_figures
    places = [at for at in _places(owners, tasks) if at]
    value, draws = draw(readings, places, metric, np.random.default_rng(seed))
    sign, n = 1.0 if m.higher_is_better else -1.0, len(owners)
    scores = [r.score for rows in readings for r in rows]
    bounds: Bounds | None = m.bounds if m.figure is not None else bounds_of(m, scores)
    wide = None if bounds is None else (bounds[0] - bounds[1], bounds[1] - bounds[0])
    whole = value.shape == (tasks + 1, tasks) and not recurring
    asked = FIGURES if whole else {"accuracy": accuracy}
    if recurring and len(readings) > 2:
        asked = {**asked, "accumulation": accumulation}
    return {
        name: of_draws(float(f(value, sign)), f(draws, sign), n, bounds=wide if name in CHANGES else bounds)
        for name, f in asked.items()
    }


def _places(owners: Sequence[int], tasks: int) -> list[list[int]]:
    return [[i for i, owner in enumerate(owners) if owner == j] for j in range(tasks)]


def _drawn_means(
    readings: Sequence[Sequence[RowResult]], places: Sequence[Sequence[int]], metric: str, rng: np.random.Generator
) -> tuple[Array, Array]:
    """The matrix [S, T], and it on rows drawn again [B, S, T], of a mean over rows."""
    m = get_metric(metric)
    value, draws = [], []
    for at in places:
        scores = np.array([[rows[i].score for i in at] for rows in readings])
        weights = np.array([1.0 if m.proportion else readings[0][i].weight for i in at])
        top = scores * weights
        value.append(top.sum(1) / weights.sum())
        block = max(1, _BLOCK // len(at))
        found = []
        for start in range(0, RESAMPLES, block):
            size = min(block, RESAMPLES - start)
            counts = rng.multinomial(len(at), np.full(len(at), 1 / len(at)), size=size)
            with np.errstate(invalid="ignore"):  # a draw of rows that count nothing is no figure
                found.append((counts @ top.T) / (counts @ weights)[:, None])
        draws.append(np.concatenate(found))
    return np.stack(value, -1), np.stack(draws, -1)


def _drawn_figures(
    readings: Sequence[Sequence[RowResult]], places: Sequence[Sequence[int]], metric: str, rng: np.random.Generator
) -> tuple[Array, Array]:
    """The same of a metric that is no mean over rows."""
    figure = get_metric(metric).figure
    assert figure is not None

    def column(at: Sequence[int]) -> list[float]:
        return [figure([rows[i] for i in at]) for rows in readings]

    value = np.stack([column(at) for at in places], -1)
    draws = [
        np.stack([column([at[i] for i in rng.integers(0, len(at), len(at))]) for at in places], -1)
        for _ in range(FEWER)
    ]
    return value, np.stack(draws)
