"""Graphons: what many graphs of one kind have in common, as a step function W [r, r] of edge probabilities.

A graph's nodes in order of falling degree, each an equal stretch of [0, 1], make its adjacency a function on the unit
square; its means over r x r equal squares are the graph's step function, whatever its number of nodes. Two step
functions are compared by the Gromov-Wasserstein distance between equal masses,

    d(V, W)^2 = min_T sum_ijkl (V_ik - W_jl)^2 T_ij T_kl,     T 1 = T' 1 = 1/r

which is 0 for two that differ by an order of their steps alone. It is no convex problem: conditional gradients (a
linear assignment each) go from the order by degree and from the even plan; the lower end counts, a bound from above.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from scipy.optimize import linear_sum_assignment

Estimator = Literal["smooth", "gap", "usvt"]
ROUNDS, SETTLED = 200, 1e-10
"""Conditional gradients at most, and the fall of d^2 under which they end."""
TURNS = 30
"""How often plan and shares take turns at most."""


def adjacency(edges: np.ndarray, nodes: int) -> np.ndarray:
    """[n, n] of 0 and 1 of edges [2, m], without directions, loops and repetitions."""
    a = np.zeros((nodes, nodes))
    a[edges[0], edges[1]] = a[edges[1], edges[0]] = 1
    np.fill_diagonal(a, 0)
    return a


def step_function(a: np.ndarray, steps: int) -> np.ndarray:
    """[r, r] means of an adjacency [n, n] over equal squares, its nodes in order of falling degree."""
    n, order = len(a), np.argsort(-a.sum(1), kind="stable")
    ends, cells = np.arange(n + 1) / n, np.arange(steps + 1) / steps
    shared = np.minimum(cells[1:, None], ends[None, 1:]) - np.maximum(cells[:-1, None], ends[None, :-1])
    means = np.clip(shared, 0, None) * steps
    return np.asarray(means @ a[np.ix_(order, order)] @ means.T)


def fitted(functions: Sequence[np.ndarray], estimator: Estimator) -> np.ndarray:
    """The graphon of graphs by their step functions [r, r]: their mean, as it is or made plainer.

    `gap`: means over blocks of steps, cut where neighbours' degrees differ most (Channarond et al. 2012), into
    r / (1 + log2 r) blocks; `usvt`: without singular values that noise alone would give (Chatterjee 2015).
    """
    mean = np.mean(functions, 0)
    return _PLAINER[estimator](mean, len(functions))


def _gap(mean: np.ndarray, graphs: int) -> np.ndarray:
    r = len(mean)
    blocks = max(1, int(r / (1 + math.log2(r))))
    order = np.argsort(-mean.sum(1), kind="stable")
    falls = -np.diff(mean.sum(1)[order])
    cuts = np.sort(np.argsort(-falls, kind="stable")[: blocks - 1]) + 1
    own = np.empty(r, np.int64)
    own[order] = np.searchsorted(cuts, np.arange(r), side="right")
    of = np.eye(own.max() + 1)[own]
    of /= of.sum(0)
    means = of.T @ mean @ of
    return np.asarray(means[np.ix_(own, own)])


def _usvt(mean: np.ndarray, graphs: int) -> np.ndarray:
    u, s, v = np.linalg.svd(mean)
    s = np.where(s < 2.02 * math.sqrt(len(mean) / (4 * graphs)), 0, s)  # an edge's variance is 1/4 at most
    return np.asarray(np.clip((u * s) @ v, 0, 1))


_PLAINER: dict[Estimator, Callable[[np.ndarray, int], np.ndarray]] = {
    "smooth": lambda mean, _: mean,
    "gap": _gap,
    "usvt": _usvt,
}


def transport(v: np.ndarray, w: np.ndarray, *starts: np.ndarray) -> tuple[float, np.ndarray]:
    """(d(V, W), its plan T [r, r]) of two step functions; `starts`: other plans to begin from."""
    r = len(v)
    ends = [_descended(v, w, t) for t in (*starts, np.eye(r) / r, np.full((r, r), 1 / r**2))]
    value, plan = min(ends, key=lambda end: end[0])
    return math.sqrt(max(value, 0.0)), plan


def _descended(v: np.ndarray, w: np.ndarray, t: np.ndarray) -> tuple[float, np.ndarray]:
    """(d^2 of a plan that conditional gradients from another end at, the plan)."""
    r, constant = len(v), float((v**2).mean() + (w**2).mean())
    value = constant - 2 * float((v @ t @ w * t).sum())
    for _ in range(ROUNDS):
        pull = v @ t @ w
        rows, columns = linear_sum_assignment(-pull)
        to = np.zeros_like(t)
        to[rows, columns] = 1 / r
        way = to - t
        slope, bend = -4 * float((pull * way).sum()), -2 * float((v @ way @ w * way).sum())
        far = min(1.0, -slope / (2 * bend)) if bend > 0 else 1.0
        if slope >= 0 and bend >= 0:
            break
        fall = -(slope * far + bend * far * far)
        if fall < SETTLED:
            break
        t, value = t + far * way, value - fall
    return value, t


def combined(basis: np.ndarray, w: np.ndarray) -> tuple[float, np.ndarray]:
    """(least d of W to a convex combination of step functions [k, r, r], its shares [k]).

    Plan and shares take turns, each the best for the other; from equal shares and from each function alone.
    """
    k = len(basis)
    starts = [np.full(k, 1 / k), *np.eye(k)] if k > 1 else [np.ones(1)]
    ends = []
    for shares in starts:
        d, plan = transport(np.tensordot(shares, basis, 1), w)
        for _ in range(TURNS if k > 1 else 0):
            r = len(w)
            near = nearest(basis.reshape(k, -1), (r * r * plan @ w @ plan.T).ravel(), shares)
            lower, other = transport(np.tensordot(near, basis, 1), w, plan)
            if lower >= d - 1e-9:
                break
            d, plan, shares = lower, other, near
        ends.append((d, shares))
    return min(ends, key=lambda end: end[0])


def nearest(points: np.ndarray, to: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """[k] shares of points [k, D] whose convex combination is nearest to a point [D], by projected gradients."""
    gram, pull = points @ points.T, points @ to
    rate = 1 / max(float(np.linalg.eigvalsh(gram)[-1]), 1e-300)
    for _ in range(2000):
        after = simplex(shares - rate * (gram @ shares - pull))
        if np.abs(after - shares).max() < 1e-12:
            break
        shares = after
    return shares


def simplex(x: np.ndarray) -> np.ndarray:
    """The nearest shares, none below 0 and of sum 1, to x [k]."""
    falling = np.sort(x)[::-1]
    over = (np.cumsum(falling) - 1) / np.arange(1, len(x) + 1)
    return np.asarray(np.clip(x - over[np.flatnonzero(falling > over)[-1]], 0, None))


def topology(a: np.ndarray) -> list[float]:
    """What a graph [n, n] is like: mean and deviation of degrees, density, closeness, assortativity, transitivity and
    clustering (0 where one is not defined).
    """
    n, degrees = len(a), a.sum(1)
    ways = a @ a
    closed, triples = (ways * a).sum(1), degrees * (degrees - 1)
    each = np.divide(closed, triples, out=np.zeros(n), where=triples > 0)
    ends = np.nonzero(a)
    pair = degrees[ends[0]], degrees[ends[1]]
    alike = float(np.corrcoef(*pair)[0, 1]) if len(ends[0]) and pair[0].std() > 0 else 0.0
    density = float(degrees.sum() / (n * (n - 1))) if n > 1 else 0.0
    transitivity = float(closed.sum() / triples.sum()) if triples.sum() > 0 else 0.0
    return [
        *(float(degrees.mean()), float(degrees.std()), density, _closeness(a)),
        *(alike, transitivity, float(each.mean())),
    ]


def _closeness(a: np.ndarray) -> float:
    """Mean over nodes of (reached / sum of distances) (reached / (n - 1)), reached the others that paths lead to."""
    n = len(a)
    seen, front = np.eye(n, dtype=bool), np.eye(n, dtype=bool)
    far, reached, steps = np.zeros(n), np.zeros(n), 0
    while front.any():
        steps += 1
        front = (front @ a > 0) & ~seen
        seen |= front
        far, reached = far + steps * front.sum(1), reached + front.sum(1)
    found = np.divide(reached * reached, far * max(n - 1, 1), out=np.zeros(n), where=far > 0)
    return float(found.mean())
