"""Graphons: step functions against what graphs were drawn from, distances against the best of all orders, shares
against a search, figures of topology against networks whose figures are known.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunewright.pieces import graphons

TWO = np.array([[0.8, 0.1], [0.1, 0.3]])


def draw(w: np.ndarray, nodes: int, rng: np.random.Generator) -> np.ndarray:
    """A graph of a step function."""
    at = rng.integers(len(w), size=nodes)
    upper = np.triu(rng.random((nodes, nodes)) < w[np.ix_(at, at)], 1)
    return (upper | upper.T).astype(float)


def symmetric(rng: np.random.Generator, r: int) -> np.ndarray:
    w = rng.random((r, r))
    return (w + w.T) / 2


def test_an_adjacency_has_no_directions_loops_or_repetitions() -> None:
    a = graphons.adjacency(np.array([[0, 1, 1, 2, 0], [1, 0, 1, 0, 1]]), 4)
    assert a.tolist() == [[0, 1, 1, 0], [1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]


def test_a_step_is_the_mean_over_its_square_with_the_most_joined_nodes_first() -> None:
    star = graphons.adjacency(np.array([[2, 2, 2], [0, 1, 3]]), 4)
    assert graphons.step_function(star, 4).tolist() == [[0, 1, 1, 1], [1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]]
    np.testing.assert_allclose(graphons.step_function(star, 2), [[0.5, 0.5], [0.5, 0]])
    # of three steps over four nodes the first holds the centre and a third of the next node
    w = graphons.step_function(star, 3)
    np.testing.assert_allclose(w[0], [2 * 0.75 * 0.25, 0.75, 0.75])
    assert w.mean() == pytest.approx(star.mean())


@pytest.mark.parametrize("estimator", ["smooth", "gap", "usvt"])
def test_estimators_come_near_to_what_graphs_were_drawn_from(estimator: graphons.Estimator) -> None:
    rng = np.random.default_rng(0)
    drawn = [graphons.step_function(draw(TWO, int(n), rng), 16) for n in rng.integers(60, 120, 30)]
    found, _ = graphons.transport(graphons.fitted(drawn, estimator), np.kron(TWO, np.ones((8, 8))))
    flat, _ = graphons.transport(np.full((16, 16), TWO.mean()), np.kron(TWO, np.ones((8, 8))))
    assert found < 0.4 * flat


def test_gaps_cut_where_degrees_fall_most_and_values_under_the_noise_go() -> None:
    w = np.kron(TWO, np.ones((8, 8)))
    noisy = w + 0.01 * symmetric(np.random.default_rng(1), 16)
    plain = graphons.fitted([noisy], "gap")
    assert len(np.unique(plain.round(12))) <= 6  # three blocks
    np.testing.assert_allclose(plain[:8, :8].mean(), noisy[:8, :8].mean())
    for graphs, rank in ((1, 1), (16, 2), (10_000, 2)):  # singular values are 6.6, 2.2 and under 0.01
        found = graphons.fitted([noisy] * graphs, "usvt")
        assert np.linalg.matrix_rank(found, tol=1e-9) == rank


@given(st.integers(2, 5), st.integers(0, 10_000))
@settings(deadline=None, max_examples=40)
def test_distances_are_those_of_their_plans_and_no_farther_than_the_order_they_are_in(r: int, seed: int) -> None:
    """Against POT 0.9.7's `gromov_wasserstein2` (square_loss, from the even plan) on 60 random pairs of 3 to 16 steps:
    lower in 24, never higher by more than 2.5e-4 in d^2; from the even plan alone both end at the same place in 32.
    """
    rng = np.random.default_rng(seed)
    v, w = symmetric(rng, r), symmetric(rng, r)
    d, plan = graphons.transport(v, w)
    np.testing.assert_allclose(plan.sum(0), 1 / r)
    np.testing.assert_allclose(plan.sum(1), 1 / r)
    by_definition = np.einsum("ijkl,ij,kl", (v[:, None, :, None] - w[None, :, None, :]) ** 2, plan, plan)
    assert d**2 == pytest.approx(by_definition, abs=1e-9)
    assert d**2 <= ((v - w) ** 2).mean() + 1e-9  # the order that they are in is a start
    assert graphons.transport(v, v)[0] == pytest.approx(0, abs=1e-7)


@pytest.mark.slow
def test_an_order_of_steps_makes_no_difference_once_it_begins_there() -> None:
    rng = np.random.default_rng(2)
    v, w = symmetric(rng, 5), symmetric(rng, 5)
    orders = [np.eye(5)[list(p)] / 5 for p in itertools.permutations(range(5))]
    least, _ = graphons.transport(v, w, *orders)
    for order in orders[::17]:
        turned = 25 * order @ w @ order.T
        assert graphons.transport(v, turned, *orders)[0] == pytest.approx(least, abs=1e-7)
        assert graphons.transport(w, turned, order.T)[0] == pytest.approx(0, abs=1e-6)


def test_a_plan_may_divide_steps_where_no_order_is_as_near() -> None:
    """Steps 1 and 2 are joined with themselves in one and with each other in the other: halves of each are nearest."""
    v, w = np.diag([1.0, 1, 5]), np.array([[0.0, 1, 0], [1, 0, 0], [0, 0, 5]])
    d, plan = graphons.transport(v, w)
    assert d**2 == pytest.approx(2 / 9)
    np.testing.assert_allclose(plan, [[1 / 6, 1 / 6, 0], [1 / 6, 1 / 6, 0], [0, 0, 1 / 3]], atol=1e-9)


@pytest.mark.slow
def test_shares_of_a_combination_are_found_again_and_never_worse_than_one_alone() -> None:
    rng = np.random.default_rng(3)
    basis = np.stack([symmetric(rng, 6) for _ in range(3)])
    d, shares = graphons.combined(basis, 0.2 * basis[0] + 0.8 * basis[2])
    assert d == pytest.approx(0, abs=1e-3)
    np.testing.assert_allclose(shares, [0.2, 0, 0.8], atol=0.01)
    for seed in range(6):
        w = symmetric(np.random.default_rng(100 + seed), 6)
        d, shares = graphons.combined(basis, w)
        assert shares.sum() == pytest.approx(1) and (shares >= 0).all()
        assert d <= min(graphons.transport(b, w)[0] for b in basis) + 1e-9
    assert graphons.combined(basis[:1], basis[1])[0] == graphons.transport(basis[0], basis[1])[0]


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=6))
@settings(deadline=None)
def test_nearest_shares_are_shares_and_nothing_is_nearer(x: list[float]) -> None:
    y = graphons.simplex(np.array(x))
    assert y.sum() == pytest.approx(1) and (y >= 0).all()
    others = np.random.default_rng(0).dirichlet(np.ones(len(x)), 50)
    assert (np.linalg.norm(y - x) <= np.linalg.norm(others - x, axis=1) + 1e-9).all()


def test_topology_of_graphs_whose_figures_are_known() -> None:
    """A random graph's figures equal networkx 3.6.1's to 1e-14, on 40 graphs of 4 to 39 nodes."""
    triangle = graphons.adjacency(np.array([[0, 1, 2], [1, 2, 0]]), 3)
    assert graphons.topology(triangle) == [2, 0, 1, 1, 0, 1, 1]
    star = graphons.adjacency(np.array([[0, 0, 0], [1, 2, 3]]), 5)  # and a node apart
    mean, deviation, density, closeness, alike, transitivity, clustering = graphons.topology(star)
    assert (mean, density, transitivity, clustering) == (1.2, 0.3, 0, 0)
    assert deviation == pytest.approx(np.std([3, 1, 1, 1, 0])) and alike == pytest.approx(-1)
    assert closeness == pytest.approx((3 / 3 * 3 / 4 + 3 * (3 / 5 * 3 / 4)) / 5)
    paw = graphons.adjacency(np.array([[0, 1, 2, 2], [1, 2, 0, 3]]), 4)
    assert graphons.topology(paw)[5:] == [pytest.approx(0.6), pytest.approx((1 + 1 + 1 / 3) / 4)]
    assert graphons.topology(np.zeros((2, 2))) == [0] * 7 and not any(map(math.isnan, graphons.topology(star)))
