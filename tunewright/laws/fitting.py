"""Fitting a positive function of a few bounded parameters, and intervals for what it foresees.

A law maps inputs [n, k] and parameters [p] to losses [n]. It is fitted to the logarithms of losses, so that errors are
relative and no interval reaches below zero: by damped least squares (Levenberg-Marquardt) from many starts within the
bounds, drawn by a fixed seed, and from where the best of these end by a robust one (soft L1), the best of which is the
fit.

Intervals are a parametric bootstrap. Each draw makes new losses of the fitted law, with an error for each run and one
for each of its points, fits the law to them, and adds such an error to what it foresees. How large errors are is itself
drawn (scale times the root of f / chi-squared with f degrees of freedom), which gives Student's wider tails where runs
are few: in a linear model with Gaussian errors this is the exact prediction interval. Rows are sorted first, so that
the order of runs changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.optimize import least_squares

Law = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(inputs [n, k], parameters [p, ...]) -> losses [..., n], nats per token: sums and products that broadcast."""

STARTS, TRIED, DRAWS, LEVEL, SEED = 100, 4, 400, 0.95, 0
LEAST = 1e-6
"""A loss below which a law is taken to say this, in nats per token: losses are not negative."""
_FAR = 10.0  # logits beyond which a parameter is at its bound
_STEP, STEPS = 1e-4, 40  # of slopes by differences; of a descent
_ROBUST = 0.02  # relative error at which a point begins to count as an outlier


@dataclass(frozen=True)
class Parameter:
    """One parameter of a law: its name and the bounds within which it is looked for."""

    name: str
    low: float
    high: float
    log: bool = False  # looked for by its logarithm: both bounds above zero


@dataclass(frozen=True)
class Fit:
    """A fitted law. `values` [p]; `runs` [n] says which run each row of `inputs` [n, k] is of."""

    law: Law
    parameters: tuple[Parameter, ...]
    inputs: np.ndarray
    losses: np.ndarray
    runs: np.ndarray
    free: np.ndarray

    @property
    def values(self) -> dict[str, float]:
        """Parameter -> value."""
        found = _bounded(self.parameters, self.free)[:, 0]
        return {p.name: float(v) for p, v in zip(self.parameters, found, strict=True)}

    @property
    def error(self) -> float:
        """Root of the mean squared error of the fitted losses, relative."""
        return float(np.sqrt(np.mean(self._residuals**2)))

    def predict(self, inputs: np.ndarray) -> np.ndarray:
        """Losses [m] at `inputs` [m, k]."""
        return _losses(self.law, self.parameters, inputs, self.free[None])[0]  # type: ignore[no-any-return]

    @cached_property
    def _residuals(self) -> np.ndarray:
        return np.log(self.losses) - np.log(self.predict(self.inputs))

    @cached_property
    def spread(self) -> tuple[float, float, int]:
        """(error of a run, error of a point, degrees of freedom), errors relative. Of runs with a point each there is
        the second alone.
        """
        names, at = np.unique(self.runs, return_inverse=True)
        n, p = len(self.losses), len(self.parameters)
        if len(names) == n:
            left = max(1, n - p)
            return 0.0, float(np.sqrt(np.sum(self._residuals**2) / left)), left
        means = np.bincount(at, self._residuals) / np.bincount(at)
        within = self._residuals - means[at]
        left = max(1, len(names) - 1)
        of_run = float(np.sqrt(np.sum(means**2) / left))
        return of_run, float(np.sqrt(np.sum(within**2) / max(1, n - p))), left

    @cached_property
    def draws(self) -> tuple[np.ndarray, np.ndarray]:
        """Free parameters [draws, p] and scales of errors [draws, 1] of the bootstrap."""
        rng = np.random.default_rng(SEED)
        of_run, of_point, left = self.spread
        fitted = np.log(self.predict(self.inputs))
        names, at = np.unique(self.runs, return_inverse=True)
        scale = np.sqrt(left / rng.chisquare(left, (DRAWS, 1)))
        errors = of_run * rng.standard_normal((DRAWS, len(names)))[:, at]
        errors += of_point * rng.standard_normal((DRAWS, len(fitted)))
        # from within the bounds, since a parameter at its bound has no gradient
        starts = np.tile(np.clip(self.free, -4, 4), (DRAWS, 1))
        return _descend(self.law, self.parameters, self.inputs, fitted + scale * errors, starts)[0], scale

    def foresee(self, inputs: np.ndarray) -> np.ndarray:
        """Bootstrap draws [draws, m] of what a new run would measure at `inputs` [m, k]."""
        rng = np.random.default_rng([SEED, 1])
        of_run, of_point, _ = self.spread
        free, scale = self.draws
        errors = of_run * rng.standard_normal((len(free), 1)) + of_point * rng.standard_normal((len(free), len(inputs)))
        return _losses(self.law, self.parameters, inputs, free) * np.exp(scale * errors)  # type: ignore[no-any-return]

    def interval(self, inputs: np.ndarray) -> list[tuple[float, float, float]]:
        """(loss, low, high) at each of `inputs`, for a run's own figure there."""
        low, high = np.quantile(self.foresee(inputs), [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
        each = self.predict(inputs)
        return [(float(v), float(min(a, v)), float(max(b, v))) for v, a, b in zip(each, low, high, strict=True)]

    def over_draws(self, figure: Callable[[np.ndarray], float]) -> tuple[float, float, float]:
        """(value, low, high) of a figure of the law's parameters [p]: what is uncertain of the law, without a run's
        own error.
        """
        value = figure(_bounded(self.parameters, self.free)[:, 0])
        each = [figure(values) for values in _bounded(self.parameters, self.draws[0]).T]
        low, high = np.quantile(each, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return value, min(float(low), value), max(float(high), value)


def fit(law: Law, parameters: Sequence[Parameter], inputs: np.ndarray, losses: np.ndarray, runs: Sequence[str]) -> Fit:
    """Fit a law to `losses` [n], nats per token, measured at `inputs` [n, k] by `runs` [n]."""
    parameters = tuple(parameters)
    keys = [*np.asarray(inputs).T, np.asarray(losses), np.asarray(runs)]
    order = np.lexsort(keys[::-1])
    x, y, names = np.asarray(inputs, float)[order], np.asarray(losses, float)[order], np.asarray(runs)[order]
    target = np.log(y)
    rng = np.random.default_rng(SEED)
    starts = rng.uniform(-3, 3, (STARTS, len(parameters)))
    ends, costs = _descend(law, parameters, x, np.tile(target, (STARTS, 1)), starts)

    def residuals(free: np.ndarray) -> np.ndarray:
        return np.log(_losses(law, parameters, x, free[None])[0]) - target  # type: ignore[no-any-return]

    best: tuple[float, np.ndarray] | None = None
    for start in ends[np.argsort(costs, kind="stable")[:TRIED]]:
        found = least_squares(
            residuals, start, bounds=(-_FAR - 1, _FAR + 1), loss="soft_l1", f_scale=_ROBUST, max_nfev=100
        )
        if best is None or found.cost < best[0]:
            best = float(found.cost), found.x
    assert best is not None
    return Fit(law, parameters, x, y, names, best[1])


def _descend(
    law: Law, parameters: tuple[Parameter, ...], x: np.ndarray, targets: np.ndarray, starts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Levenberg-Marquardt for many problems at once: free parameters [d, p] that bring the law near logarithms of
    losses [d, n], and sums of squares [d], from `starts` [d, p].
    """
    free, count = starts.copy(), starts.shape[1]

    def miss(at: np.ndarray) -> np.ndarray:
        return np.log(_losses(law, parameters, x, at)) - targets  # type: ignore[no-any-return]

    r = miss(free)
    cost, damping = np.sum(r**2, axis=1), np.full(len(free), 1e-2)
    for _ in range(STEPS):
        slopes = np.stack([(miss(free + _STEP * row) - r) / _STEP for row in np.eye(count)], axis=2)
        square = np.swapaxes(slopes, 1, 2) @ slopes
        size = np.einsum("dpp->dp", square) + 1e-9
        lean = square + (damping[:, None] * size)[:, :, None] * np.eye(count)
        step = np.linalg.solve(lean, np.einsum("dnp,dn->dp", slopes, r)[:, :, None])[:, :, 0]
        tried = np.clip(free - np.clip(step, -2, 2), -_FAR, _FAR)
        new = miss(tried)
        found = np.sum(new**2, axis=1)
        better = found < cost
        free[better], r[better], cost[better] = tried[better], new[better], found[better]
        damping = np.clip(np.where(better, damping / 4, damping * 6), 1e-9, 1e9)
    return free, cost


def _losses(law: Law, parameters: tuple[Parameter, ...], x: np.ndarray, free: np.ndarray) -> np.ndarray:
    """Losses [d, n] for free parameters [d, p]."""
    return np.maximum(law(x, _bounded(parameters, free)[:, :, None]), LEAST)


def _bounded(parameters: tuple[Parameter, ...], free: np.ndarray) -> np.ndarray:
    """Parameters within their bounds [p, d] of free ones [d, p] or [p]: logistic between them."""
    part = 1 / (1 + np.exp(-np.clip(np.atleast_2d(free).T, -_FAR - 1, _FAR + 1)))
    out = np.empty_like(part)
    for i, p in enumerate(parameters):
        out[i] = p.low * (p.high / p.low) ** part[i] if p.log else p.low + (p.high - p.low) * part[i]
    return out
