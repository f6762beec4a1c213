"""Stein variational gradient descent (Liu & Wang 2016, arXiv:1608.04471): points become a sample of a distribution.

    phi_i = 1/N sum_j [ k(x_j, x_i) score(x_j) + (x_i - x_j) k(x_j, x_i) / h^2 ],   k(x, y) = exp(-|x - y|^2 / 2 h^2)
    x_i <- x_i + rate phi_i / (1e-6 + sqrt(mean of phi_i^2))

The first sum draws points to where the distribution is dense, the second keeps them apart. h^2 is the median of the
squared distances of pairs over 2 log(N + 1); the mean of squares forgets by 0.9. N points x [N, D].
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

MEMORY, FUDGE = 0.9, 1e-6
"""How much the mean of squares keeps, and what is added to its root (the values of the authors' code)."""


def direction(x: Tensor, score: Tensor) -> Tensor:
    """phi [N, D] at points x [N, D] with the gradients `score` [N, D] of the log-density there."""
    squared = torch.cdist(x, x).square()
    off = squared[~torch.eye(len(x), dtype=torch.bool)]
    width = float(off.median()) / (2 * math.log(len(x) + 1)) if len(off) else 0.0
    if width == 0.0:  # one point, or points that are mostly equal: nothing says how far apart is near
        return score
    kernel = torch.exp(-squared / (2 * width))
    apart = (x * kernel.sum(1, keepdim=True) - kernel @ x) / width
    return (kernel @ score + apart) / len(x)


def moved(x: Tensor, score: Callable[[Tensor], Tensor], steps: int, rate: float) -> Tensor:
    """Points x [N, D] after so many steps."""
    squares: Tensor | None = None
    for _ in range(steps):
        phi = direction(x, score(x))
        squares = phi.square() if squares is None else MEMORY * squares + (1 - MEMORY) * phi.square()
        x = x + rate * phi / (FUDGE + squares.sqrt())
    return x
