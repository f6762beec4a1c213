"""Mixtures of normal distributions: fitted by expectation and maximisation, their log-density and its gradient.

N points, D dimensions, K components; float64, on the CPU.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import torch
from torch import Tensor

ROUNDS, SETTLED = 100, 1e-3
"""Rounds at most, and the gain of the mean log-density under which they end (scikit-learn's values)."""


@dataclass(frozen=True)
class Mixture:
    """Weights [K] that sum to 1, means [K, D], and lower Cholesky factors [K, D, D] of the covariances."""

    weights: Tensor
    means: Tensor
    roots: Tensor

    def each(self, x: Tensor) -> Tensor:
        """[N, K] log of weight times density of each component at x [N, D]."""
        away = (x[None] - self.means[:, None]).transpose(1, 2)  # [K, D, N]
        lengths = torch.linalg.solve_triangular(self.roots, away, upper=False).square().sum(1)
        logdet = self.roots.diagonal(dim1=1, dim2=2).log().sum(1)
        constant = self.weights.log() - logdet - self.means.shape[1] / 2 * math.log(2 * math.pi)
        return (constant[:, None] - lengths / 2).T

    def log_density(self, x: Tensor) -> Tensor:
        """[N] of the mixture at x [N, D]."""
        return self.each(x).logsumexp(1)

    def score(self, x: Tensor) -> Tensor:
        """[N, D] the gradient of the log-density at x [N, D]: each component's pull by its share of the point."""
        shares = self.each(x).softmax(1)
        away = (x[None] - self.means[:, None]).transpose(1, 2)
        pulls = -torch.cholesky_solve(away, self.roots)  # [K, D, N]
        return torch.einsum("nk,kdn->nd", shares, pulls)


def fitted(x: Tensor, components: int, floor: float, rng: random.Random) -> Mixture:
    """The mixture of at most `components` (no more than points) that x [N, D] is likely under; `floor` is added to
    every variance. It begins at points that are drawn far apart, each with those nearest to it.
    """
    x = x.double().cpu()
    nearest = torch.cdist(x, _far_apart(x, min(components, len(x)), rng)).argmin(1)
    shares = torch.nn.functional.one_hot(nearest, min(components, len(x))).double()
    mixture, before = _from_shares(x, shares, floor), -math.inf
    for _ in range(ROUNDS):
        told = mixture.each(x)
        now = float(told.logsumexp(1).mean())
        if now - before < SETTLED:
            break
        mixture, before = _from_shares(x, told.softmax(1), floor), now
    return mixture


def clusters(x: Tensor, count: int, rng: random.Random) -> Tensor:
    """[N] which of at most `count` heaps each point of x [N, D] belongs to: that whose mean is nearest (k-means)."""
    x = x.double().cpu()
    means, own = _far_apart(x, min(count, len(x)), rng), torch.full((len(x),), -1)
    for _ in range(ROUNDS):
        nearest = torch.cdist(x, means).argmin(1)
        if torch.equal(nearest, own):
            break
        own = nearest
        means = torch.stack([x[own == k].mean(0) if bool((own == k).any()) else means[k] for k in range(len(means))])
    return own


def _far_apart(x: Tensor, count: int, rng: random.Random) -> Tensor:
    """[count, D] of the points, the next likelier the farther it is from those before it (k-means++)."""
    picked = [rng.randrange(len(x))]
    while len(picked) < count:
        far = torch.cdist(x, x[picked]).amin(1).square()
        far[picked] = 0.0
        left = [i for i in range(len(x)) if i not in picked]
        weights = [float(far[i]) for i in left]
        picked.append(rng.choices(left, weights)[0] if sum(weights) > 0 else left[0])
    return x[picked]


def _from_shares(x: Tensor, shares: Tensor, floor: float) -> Mixture:
    """The mixture that points of which each component has a share [N, K] make."""
    counts = shares.sum(0) + 1e-12  # a component that has nothing stays where it falls, with a weight of nothing
    means = shares.T @ x / counts[:, None]
    floors, roots = floor * torch.eye(x.shape[1], dtype=x.dtype), []
    for share, mean, count in zip(shares.T, means, counts, strict=True):  # one at a time: [N, D] is held once
        away = x - mean
        roots.append(torch.linalg.cholesky((away * share[:, None]).T @ away / count + floors))
    return Mixture(counts / counts.sum(), means, torch.stack(roots))
