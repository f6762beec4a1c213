"""The leading singular vectors of matrices that are met in products alone, by subspace iteration.

With R [in, q] drawn, Q = orth(M R), then `iterations` times P = orth(M^T Q), Q = orth(M P); the singular vectors of
Q^T M [q, in] are M's, with U brought back by Q (Halko, Martinsson and Tropp 2011, arXiv:0909.4061). M itself is never
asked for, so that a sum over rows of data may be as large as it likes: only what is [out, q] or [in, q] is held.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Products = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
SEED = 42


def leading_svd(
    times: Products, transposed: Products, starts: Mapping[str, Tensor], iterations: int
) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """{name: (U [out, q], S [q], V^T [q, in])} of matrices M [out, in] by name, in 2 (iterations + 1) products.

    `times` gives M P for every P [in, q], `transposed` M^T Q for every Q [out, q]; `starts` are the drawn R [in, q].
    """
    Q = _orthonormal(times(starts))
    for _ in range(iterations):
        Q = _orthonormal(times(_orthonormal(transposed(Q))))
    found = {}
    for name, B in transposed(Q).items():
        U, S, Vt = torch.linalg.svd(B.t(), full_matrices=False)
        found[name] = (Q[name] @ U, S, Vt)
    return found


def drawn(width: int, q: int, seed: int = SEED) -> Tensor:
    """R [width, q] ~ N(0, 1), fp32, the same for the same seed."""
    return torch.randn(width, q, generator=torch.Generator().manual_seed(seed))


def leading(X: Tensor, k: int, iterations: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """(U [m, k'], S [k'], V^T [k', n]) of a matrix at hand, k' at most k: exact where twice k reach its narrower side,
    else from twice as many directions.
    """
    q = 2 * k
    if q >= min(X.shape):
        U, S, Vt = torch.linalg.svd(X, full_matrices=False)
    else:
        start = {"": drawn(X.shape[1], q).to(X)}
        U, S, Vt = leading_svd(lambda p: {"": X @ p[""]}, lambda p: {"": X.t() @ p[""]}, start, iterations)[""]
    return U[:, :k], S[:k], Vt[:k]


def _orthonormal(matrices: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n: torch.linalg.qr(M).Q for n, M in matrices.items()}
