"""A-GEM and GEM: what is left of a step's gradient is the nearest one that does not raise kept rows' loss."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from tests.methods.driving import Run, image_rows
from tests.methods.rehearsing import SGD, ByHand, trained
from tunewright.conformance.bench import Tiny
from tunewright.contract.left import Earlier, left_of
from tunewright.methods.continual.a_gem import AGEM, projected
from tunewright.methods.continual.gem import GEM, dual
from tunewright.pieces.rehearsal import LEAVES
from tunewright.training.inner import Inner

PICTURES = "image-classification"


def flat(g) -> torch.Tensor:
    return torch.cat([g[n].flatten().double() for n in sorted(g)])


def nearest(g: np.ndarray, G: np.ndarray) -> np.ndarray:
    """The nearest point of {x: G x >= 0} by trying every set of active constraints: the one that is feasible and
    nearest.
    """
    best = None
    for k in range(len(G) + 1):
        for active in itertools.combinations(range(len(G)), k):
            A = G[list(active)]
            x = g - A.T @ np.linalg.pinv(A @ A.T) @ (A @ g) if k else g
            if (G @ x >= -1e-9).all() and (best is None or np.linalg.norm(x - g) < np.linalg.norm(best - g)):
                best = x
    assert best is not None
    return best


def bounded(P: np.ndarray, q: np.ndarray, least: float) -> np.ndarray:
    """argmin of v P v / 2 + v q over v >= least, by a solver that knows of neither Cholesky nor least squares."""
    options = {"ftol": 1e-15, "gtol": 1e-10}
    found = minimize(
        lambda v: 0.5 * v @ P @ v + q @ v, np.ones(len(q)), jac=lambda v: P @ v + q, bounds=[(least, None)] * len(q),
        method="L-BFGS-B", options=options,
    )  # fmt: skip
    return found.x


@pytest.mark.parametrize("seed", range(6))
def test_without_a_margin_the_dual_gives_the_nearest_point_of_the_cone(seed):
    rng = np.random.default_rng(seed)
    G, g = rng.normal(size=(3, 7)), rng.normal(size=7)
    g = g - 2 * G.sum(0) if seed % 2 else g
    x = g + G.T @ dual(G @ G.T, G @ g, 0.0)
    np.testing.assert_allclose(x, nearest(g, G), atol=1e-4)


def test_with_a_margin_it_is_the_authors_quadratic_problem():
    """Against scipy's general solver, on gradients of very different sizes (a fixed ridge of 0.001 would win there)."""
    rng = np.random.default_rng(3)
    for scale in (1.0, 1e-3):
        G, g = scale * rng.normal(size=(4, 9)), scale * rng.normal(size=9)
        P, q = G @ G.T / scale**2, G @ g / scale**2
        np.testing.assert_allclose(dual(G @ G.T, G @ g, 0.5), bounded(P, q, 0.5), atol=1e-4)


def test_a_gradient_that_harms_loses_just_that_part():
    g, r = {"a": torch.tensor([1.0, -2.0]), "b": torch.tensor([0.5])}, {"a": torch.tensor([0.0, 1.0])}
    x, changed = projected(g, r)
    assert changed and x["a"].tolist() == [1.0, 0.0] and x["b"].tolist() == [0.5]
    assert projected(x, r)[1] is False


def later(method, name: str, rows) -> Run:
    """A second stage on pictures with turned labels, after a first one on the pictures as they are."""
    first = trained({name: method}, PICTURES, steps=3)
    state = first.state(name)
    left = left_of("one", name, LEAVES, state, state.data)
    left.values["memory"]["slots"] = [["one", c] for _, c in left.values["memory"]["slots"]]
    return Run(
        {name: method},
        model=first.adapted,
        task=PICTURES,
        sources={"s": rows},
        steps=4,
        earlier=Earlier((left,)),
        **SGD,
    )


def turned() -> list:
    return [r.replace(id=f"turned:{i}", label=(r.label + 1) % 3) for i, r in enumerate(image_rows(16))]


@pytest.mark.parametrize("name", ["a-gem", "gem"])
def test_the_steps_of_a_later_stage_are_projected_steps_by_hand(name):
    """With all rows of the stage before as reference: turned labels pull against them."""
    method = AGEM(buffer_size=60, minibatch_size=60) if name == "a-gem" else GEM(buffer_size=60, margin=0.0)
    run = later(method, name, turned())
    hand = ByHand(PICTURES)
    hand.model.load_state_dict(run.adapted.model.state_dict())
    told = run.train().done
    changed = 0
    for i in range(4):
        own = turned()[4 * i : 4 * i + 4]
        g, r = (hand.gradient(hand.loss(rows)) for rows in (own, hand.rows))
        along, size = float(flat(g) @ flat(r)), float(flat(r) @ flat(r))
        changed += along < 0
        hand.step({n: g[n] - min(0.0, along / size) * r[n] for n in g})
    assert changed >= 3 and told[f"projected/{name}"] in (0.0, 1.0)
    assert [r[f"projected/{name}"] for r in run.records].count(1.0) == changed
    hand.check(run)


def test_nothing_is_projected_before_there_is_an_earlier_stage():
    assert not any("projected/gem" in r for r in trained({"gem": GEM()}, PICTURES, steps=2).records)


def test_rows_of_the_present_stage_are_no_reference_and_each_earlier_stage_is_one(monkeypatch):
    t = Tiny([("gem", GEM(buffer_size=6))])
    slots = t.loop.methods.one("step").state.data["memory"]["slots"]
    slots[0][0], kept = "before", len(slots) - 1
    read: list[int] = []
    original = Inner.gradients_of

    def watched(self, rows, loss=None):
        read.append(len(rows))
        return original(self, rows, loss)

    monkeypatch.setattr(Inner, "gradients_of", watched)
    t.loop.one_step()
    assert read == [1, kept] and t.loop.methods.one("step").state.data["memory"]["seen"] > kept + 1
