"""Losses of continual pre-training by mixture and tokens, and the critical mixture ratio (Gu et al. 2024).

Of finished runs with other shares of domain text R (0 to 1, the rest replayed general text) and other budgets T
(tokens), the loss on domain text and on general text at their ends, nats per token. With t = T / T0, where T0 is the
geometric mean of the runs' budgets, and the untouched base's losses D and G:

    domain(R, T)  = floor + (D - floor) (1 + R t / d)^-a      0 <= floor < D: domain tokens alone teach the domain
    general(R, T) = G (1 + (1 - R) t)^-c + B R^p t^s          replayed text goes on teaching; the domain's share undoes

At a given share the rise of the general loss is a sum of two powers of the tokens, and at a given budget a power of the
share, as the paper finds. Runs without any replay are left out where others have some: between none and a little the
general loss falls by more than any power of the share says (docs/laws.md shows it), and the paper's ratios end at
three quarters. The critical mixture ratio at T is the largest R with general(R, T) <= G + tolerance; the
general loss grows with R, so that there is one (R = 0 always serves). None above the largest share seen is given.

`tolerance`: 0.05 nats per token, the paper's (its limit on the rise of the general loss).

Differs from the paper in: it fits a curve over tokens to each run of a ratio, and then a power law of tokens to the
ratios that these curves give; here one law over shares and tokens is fitted to the ends of runs, so that a few short
runs serve, and the ratio at any budget follows from it. A run whose rate fell to nothing is one point, where the paper
reads validation losses under way. The domain's law has the base's loss at no tokens, and both losses stay positive at
any budget; the paper's sums of powers do neither. Intervals are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq

from tunewright.laws.fitting import Fit, Law, Parameter, fit

PAPERS = ("cmr-scaling-law",)
TOLERANCE = 0.05
LEAST_RUNS, LEAST_SHARES, LEAST_BUDGETS = 6, 3, 2


@dataclass(frozen=True)
class Point:
    """The end of one run: domain share, tokens, and losses on both texts in nats per token."""

    run: str
    share: float
    tokens: float
    domain: float
    general: float


@dataclass(frozen=True)
class MixtureLaw:
    """Both fitted laws. `unit`: T0, tokens; `base_general`: G; `most`: the largest domain share that was seen."""

    domain: Fit
    general: Fit
    unit: float
    base_general: float
    most: float

    def at(self, shares: Sequence[float], tokens: Sequence[float]) -> np.ndarray:
        """Inputs [n, 2] of the laws, for domain shares and tokens [n]."""
        return np.column_stack([np.asarray(shares, float), np.asarray(tokens, float) / self.unit])

    def critical(self, tokens: float, tolerance: float = TOLERANCE) -> tuple[float, float, float]:
        """(domain share, low, high): the largest that keeps the general loss within `tolerance` of the base's."""
        limit = self.base_general + tolerance

        def largest(values: np.ndarray) -> float:
            def over(share: float) -> float:
                at = np.array([[share, tokens / self.unit]])
                return float(self.general.law(at, values)[0]) - limit

            if over(self.most) <= 0:
                return self.most
            return float(brentq(over, 0.0, self.most, xtol=1e-6)) if over(0.0) < 0 else 0.0

        return self.general.over_draws(largest)


def enough(points: Sequence[Point]) -> str:
    """What is missing for a fit, in words; empty where nothing is."""
    shares, budgets = len({p.share for p in points}), len(budgets_of([p.tokens for p in points]))
    if len(points) >= LEAST_RUNS and shares >= LEAST_SHARES and budgets >= LEAST_BUDGETS:
        return ""
    return (
        f"{len(points)} runs with {shares} domain shares and {budgets} budgets; the mixture's law takes at least "
        f"{LEAST_RUNS} runs, {LEAST_SHARES} shares and {LEAST_BUDGETS} budgets"
    )


def budgets_of(tokens: Sequence[float]) -> list[list[float]]:
    """Tokens by budget, least first: those within a fifth of the next are of one, since runs end with whole steps."""
    groups: list[list[float]] = []
    for each in sorted(tokens):
        if groups and each <= 1.2 * groups[-1][-1]:
            groups[-1].append(each)
        else:
            groups.append([each])
    return groups


def fit_mixture(points: Sequence[Point], base_domain: float, base_general: float) -> MixtureLaw:
    """Fit both laws to ends of runs that `enough` takes."""
    unit = float(np.exp(np.mean(np.log(sorted(p.tokens for p in points)))))
    x = np.array([[p.share, p.tokens / unit] for p in points])
    names = [p.run for p in points]
    domain = fit(domain_law(base_domain), DOMAIN, x, np.array([p.domain for p in points]), names)
    general = fit(general_law(base_general), GENERAL, x, np.array([p.general for p in points]), names)
    return MixtureLaw(domain, general, unit, base_general, max(p.share for p in points))


DOMAIN = (
    Parameter("floor", 0.0, 1.0),  # as a share of the base's loss
    Parameter("a", 0.01, 3.0, log=True),
    Parameter("d", 1e-4, 1e2, log=True),
)
GENERAL = (
    Parameter("c", 1e-5, 0.5, log=True),
    Parameter("B", 1e-4, 10.0, log=True),
    Parameter("p", 0.1, 10.0, log=True),
    Parameter("s", -0.5, 1.5),
)


def domain_law(base: float) -> Law:
    """The domain's law over (share, tokens / T0), for the base's loss on it."""

    def losses(x: np.ndarray, values: np.ndarray) -> np.ndarray:
        floor, a, d = values
        share, tokens = x.T
        return base * (floor + (1 - floor) * (1 + share * tokens / d) ** -a)

    return losses


def general_law(base: float) -> Law:
    """The general text's law over (share, tokens / T0), for the base's loss on it."""

    def losses(x: np.ndarray, values: np.ndarray) -> np.ndarray:
        c, rise, p, s = values
        share, tokens = x.T
        return base * (1 + (1 - share) * tokens) ** -c + rise * share**p * tokens**s

    return losses
