"""Directions of a layer's inputs that earlier tasks use: an orthonormal basis M [in, k] that grows task by task
(gradient projection memory, Saha et al. 2021, arXiv:2103.09762). C [in, in] is a task's sum of x x^T over its inputs x.

A task adds as few directions as make M hold a share `threshold` of its inputs' squared length:

    tr(M^T C M) + sum of the largest eigenvalues of (1 - M M^T) C (1 - M M^T)  >=  threshold tr(C)

These are the squared singular values of the inputs outside of M. What changes a weight on no direction of M leaves what
the layer says of earlier inputs as it was, up to the share that M does not hold.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh
from torch import Tensor

from tunewright.contract.state import State

DENSE = 256
"""Inputs up to which all directions are computed, where only the first are asked for."""
SMALLEST = 1e-9
"""Share of a task's squared length below which a direction is rounding."""


def grown(basis: Tensor | None, covariance: Tensor, threshold: float) -> Tensor:
    """The basis [in, k] (none: of no direction yet) with what a task of `covariance` [in, in] adds; fp32."""
    M, C = _double(basis, covariance)
    total, held = C.trace(), (M.T @ C @ M).trace()
    if total <= 0 or held >= threshold * total:
        return M.float()
    values, vectors = _outside(M, C)
    enough = held + values.cumsum(0) >= threshold * total
    count = int(enough.float().argmax()) + 1 if bool(enough.any()) else len(values)
    count = min(count, int((values > SMALLEST * total).sum()))
    found = torch.cat([M, vectors[:, :count]], 1)
    # laid out as a checkpoint gives it back: products round by the order in memory
    return (torch.linalg.qr(found).Q if found.shape[1] else found).float().contiguous()


def keep_inputs(state: State, covariances: Mapping[str, Tensor], threshold: float) -> None:
    """Let the basis of every layer, the state's buffer "basis.<site>", grow by a task's inputs. Layers that read the
    same tensor (queries, keys and values) share the work.
    """
    done: list[tuple[Tensor, Tensor | None, Tensor]] = []
    for site, C in covariances.items():
        before = state.get(f"basis.{site}")
        same = (new for of, old, new in done if of is C and _equal(old, before))
        new = next(same, None)
        if new is None:
            new = grown(before, C, threshold)
            done.append((C, before, new))
        state.set_buffer(f"basis.{site}", new.clone())


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    return a is None and b is None or a is not None and b is not None and torch.equal(a, b)


def free_directions(basis: Tensor | None, covariance: Tensor, count: int) -> Tensor:
    """[count, in] orthonormal rows outside of the basis: those along which the task's inputs are longest; a row of
    zeros where none is left.
    """
    M, C = _double(basis, covariance)
    values, vectors = _leading(M, C, count) if len(C) > DENSE and 4 * count < len(C) else _outside(M, C)
    rows = vectors[:, :count].T.clone()
    rows[values[:count] <= SMALLEST * C.trace()] = 0
    return rows.float()


def without(matrix: Tensor, basis: Tensor) -> Tensor:
    """[out, in] minus its part on the basis: matrix (1 - M M^T)."""
    M = basis.to(matrix)
    return matrix - (matrix @ M) @ M.T


def _double(basis: Tensor | None, covariance: Tensor) -> tuple[Tensor, Tensor]:
    C = covariance.double()
    return (C.new_zeros(len(C), 0) if basis is None else basis.to(C)), C


def _leading(M: Tensor, C: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The first `count` of `_outside`, by Lanczos' method from a fixed start: a matrix of thousands in milliseconds."""
    basis, covariance = M.cpu().numpy(), C.cpu().numpy()

    def outside(x: NDArray[np.float64]) -> NDArray[np.float64]:
        x = x - basis @ (basis.T @ x)
        x = covariance @ x
        kept: NDArray[np.float64] = x - basis @ (basis.T @ x)
        return kept

    start = np.random.default_rng(0).normal(size=len(covariance))
    try:
        found = eigsh(LinearOperator(C.shape, outside, dtype=np.float64), k=count, which="LA", v0=start)
    except ArpackError:  # nothing is left outside, or many directions are equally long
        return _outside(M, C)
    values, vectors = (torch.from_numpy(np.ascontiguousarray(x)).to(C) for x in found)
    return values.flip(0).clamp_min(0), vectors.flip(1)


def _outside(M: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    """(eigenvalues, falling, and eigenvectors in columns) of C outside of M."""
    keep = torch.eye(len(C), dtype=C.dtype, device=C.device) - M @ M.T
    values, vectors = torch.linalg.eigh(keep @ C @ keep)
    return values.flip(0).clamp_min(0), vectors.flip(1)
