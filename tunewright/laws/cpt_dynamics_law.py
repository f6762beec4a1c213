"""The loss of continual pre-training at any step of any schedule (Wang et al. 2025).

Of curves of one held-out text under continual pre-training, with eta_i the learning rate of step i:

    S1(n) = sum of eta_i over i <= n                                      the forward area
    S2(n) = sum over i <= n of sum over k <= i of (eta_{k-1} - eta_k) lambda^(i-k)    the annealing area

    L(n) = L0 - A (1 - (1 + S1/P)^-alpha) - C S2 + B R^p (1 - (1 + E S1)^-beta)

The terms are, in turn: what pre-training's own law goes on to gain (from A (S_pt + S1)^-alpha, whose first area, the
forward area of pre-training, is P), what annealing gains at once, and the shift of the distribution, which saturates; B
is above zero for text like that of pre-training and below for the domain's. R is the share of domain text. S1 is
counted in units of the longest run's, S2 of its largest; areas come from the learning rates that runs logged.

lambda is the one of `MOMENTA` under which the fitted runs are fitted best, and intervals take it as known. The law that
this one builds on (Tissue et al. 2024) takes 0.99 to 0.999, of runs of many thousand steps; a fall is forgotten after
about 1 / (1 - lambda) steps, so that runs of a hundred need shorter ones.

Differs from the paper in: the base's pre-training is not known here, so that S_pt is fitted, and the annealing area of
pre-training is part of L0, the fitted loss at the start (the paper takes published models to be annealed to nothing).
Steps in which the rate rises (a warm-up) add nothing to S2; falls alone count. The share of domain text enters as a
power of it, as in `cmr_scaling_law` (and runs without replay are left out where others have some, as there); the
paper's form for the replay ratio was not at hand. Intervals are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tunewright.laws.fitting import Fit, Parameter, fit

PAPERS = ("cpt-dynamics-law",)
MOMENTA = (0.8, 0.9, 0.95, 0.99, 0.999)
LEAST_RUNS, LEAST_POINTS = 3, 16


@dataclass(frozen=True)
class Curve:
    """One run: domain share, learning rates [steps], and (step, loss) of its evaluations, nats per token."""

    run: str
    share: float
    rates: tuple[float, ...]
    points: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class CurveLaw:
    """The fitted law. `units`: what S1 and S2 are counted in; `momentum`: lambda."""

    fit: Fit
    units: tuple[float, float]
    momentum: float

    def at(self, share: float, rates: Sequence[float], steps: Sequence[int]) -> np.ndarray:
        """Inputs [n, 3] of the law after `steps` [n] under learning rates [>= max(steps)]."""
        return _inputs(share, rates, steps, self.units, self.momentum)


def areas(rates: Sequence[float], momentum: float) -> tuple[np.ndarray, np.ndarray]:
    """S1 and S2 after each step [steps], of the learning rates of the steps; `momentum`: lambda."""
    eta = np.asarray(rates, float)
    falls = np.maximum(0.0, np.concatenate([[0.0], eta[:-1] - eta[1:]]))
    kept, now = np.empty_like(eta), 0.0
    for i, fall in enumerate(falls):
        kept[i] = now = momentum * now + fall
    return np.cumsum(eta), np.cumsum(kept)


def enough(curves: Sequence[Curve]) -> str:
    """What is missing for a fit, in words; empty where nothing is."""
    count = sum(len(c.points) for c in curves)
    if len(curves) >= LEAST_RUNS and count >= LEAST_POINTS:
        return ""
    return (
        f"{len(curves)} runs with {count} evaluations while training; the curve's law takes at least {LEAST_RUNS} runs "
        f"and {LEAST_POINTS} evaluations (train.eval_steps)"
    )


def fit_curves(curves: Sequence[Curve]) -> CurveLaw:
    """Fit the law to curves that `enough` takes."""
    return min((_fit(curves, momentum) for momentum in MOMENTA), key=lambda found: found.fit.error)


def _fit(curves: Sequence[Curve], momentum: float) -> CurveLaw:
    most = [areas(c.rates, momentum) for c in curves]
    units = float(max(s1[-1] for s1, _ in most)), float(max(s2[-1] for _, s2 in most)) or 1.0
    x = np.vstack([_inputs(c.share, c.rates, [n for n, _ in c.points], units, momentum) for c in curves])
    losses = np.array([loss for c in curves for _, loss in c.points])
    names = [c.run for c in curves for _ in c.points]
    return CurveLaw(fit(law, parameters(losses), x, losses, names), units, momentum)


def parameters(losses: np.ndarray) -> tuple[Parameter, ...]:
    """The law's parameters, bounded by the losses [n] that were seen."""
    low, high = float(losses.min()), float(losses.max())
    return (
        Parameter("L0", low / 2, 2 * high, log=True),
        Parameter("A", 0.0, low),
        Parameter("P", 1e-2, 1e2, log=True),
        Parameter("alpha", 0.05, 2.0, log=True),
        Parameter("C", 0.0, low / 2),
        Parameter("B", -high, high),
        Parameter("E", 1e-1, 1e3, log=True),
        Parameter("beta", 0.05, 3.0, log=True),
        Parameter("p", 0.1, 10.0, log=True),
    )


def law(x: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Losses [n] at (share, S1, S2) [n, 3], the areas in their units."""
    start, a, p_area, alpha, c, b, e, beta, p = values
    share, s1, s2 = x.T
    learnt = a * (1 - (1 + s1 / p_area) ** -alpha)
    shift = b * share**p * (1 - (1 + e * s1) ** -beta)
    return start - learnt - c * s2 + shift  # type: ignore[no-any-return]


def _inputs(
    share: float, rates: Sequence[float], steps: Sequence[int], units: tuple[float, float], momentum: float
) -> np.ndarray:
    s1, s2 = areas(rates, momentum)
    at = np.asarray(steps, int)
    past = at > 0  # before the first step both areas are nothing
    return np.column_stack(
        [
            np.full(len(at), share),
            np.where(past, s1[np.maximum(at - 1, 0)], 0.0) / units[0],
            np.where(past, s2[np.maximum(at - 1, 0)], 0.0) / units[1],
        ]
    )
