"""DARE and DELLA: expectations, probabilities, and random numbers that follow from the seed and the name alone."""

from __future__ import annotations

import math

import pytest
import torch

from tunewright.errors import MethodError
from tunewright.weights.merge._task_vectors import drop, keep_by_rank
from tunewright.weights.merge._thinning import magnitude_keep
from tunewright.weights.merge.dare_linear import DareLinear
from tunewright.weights.merge.dare_ties import DareTies
from tunewright.weights.merge.della import Della
from tunewright.weights.merge.della_linear import DellaLinear
from tunewright.weights.merge.task_arithmetic import TaskArithmetic
from tunewright.weights.merge.ties import Ties
from tunewright.weights.operator import merge_one, merge_tensors


def change(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "method, epsilon", [(DareLinear(density=0.3), 0.0), (DellaLinear(density=0.4, epsilon=0.3), 0.3)]
)
def test_the_expectation_is_the_task_vector(method, epsilon):
    """Over 2,000 names: the mean of every entry lies within 6 standard errors of it, and the kept share is the
    density.
    """
    base, tau = torch.zeros(6, 5), change(6, 5)
    draws = torch.stack([merge_one(method, f"t{i}", base, [tau]) for i in range(2000)])
    p = keep_by_rank(tau, method.density, epsilon)
    error = tau.abs() * ((1 - p) / p / len(draws)).sqrt()
    assert bool(((draws.mean(0) - tau).abs() <= 6 * error).all())
    share = float((draws != 0).float().mean())
    assert abs(share - method.density) < 6 * math.sqrt(0.25 / draws.numel())
    kept = draws != 0
    assert torch.allclose(draws[kept], (tau / p).expand_as(draws)[kept], rtol=1e-5)
    without = merge_one(type(method)(**{**method.model_dump(), "rescale": False}), "t0", base, [tau])
    assert torch.equal(without, torch.where(kept[0], tau, 0.0))


@pytest.mark.parametrize("della, dare", [(DellaLinear, DareLinear), (Della, DareTies)])
def test_della_with_epsilon_0_is_dare(della, dare):
    base, models = {"w": change(7, 6)}, [{"w": change(7, 6, seed=s)} for s in (1, 2, 3)]
    assert torch.equal(
        merge_tensors(della(density=0.5, epsilon=0, normalize=True), base, models)["w"],
        merge_tensors(dare(density=0.5, normalize=True), base, models)["w"],
    )


@pytest.mark.parametrize(
    "random, plain",
    [(DareLinear, TaskArithmetic()), (DellaLinear, TaskArithmetic()), (DareTies, Ties(density=1, normalize=False))],
)
def test_density_1_drops_nothing(random, plain):
    base, models = {"w": change(7, 6)}, [{"w": change(7, 6, seed=s)} for s in (1, 2, 3)]
    assert torch.equal(merge_tensors(random(density=1), base, models)["w"], merge_tensors(plain, base, models)["w"])


def test_larger_entries_are_kept_likelier_evenly_by_rank_in_each_row():
    x = torch.tensor([[0.1, -0.4, 0.2, -0.3], [8.0, 1.0, -4.0, 2.0]])
    p = keep_by_rank(x, 0.5, 0.3)
    assert torch.allclose(p, torch.tensor([[0.2, 0.8, 0.4, 0.6], [0.8, 0.2, 0.6, 0.4]]))
    assert torch.allclose(keep_by_rank(x[0], 0.5, 0.3), p[0]) and torch.allclose(
        keep_by_rank(x.view(2, 2, 2), 0.5, 0.3), p.view(2, 2, 2)
    )
    assert float(keep_by_rank(torch.tensor([3.0]), 0.5, 0.3)) == 0.5
    assert torch.allclose(p.mean(1), torch.tensor([0.5, 0.5]))


def test_probabilities_that_leave_0_to_1_are_refused_and_its_ends_work():
    with pytest.raises(MethodError, match="probabilities from"):
        magnitude_keep(change(4, 4), 0.9, 0.2)
    p = magnitude_keep(change(4, 4), 0.5, 0.5)
    assert p.min() == 0 and p.max() == 1
    kept = drop(change(4, 4), p, torch.rand(4, 4, generator=torch.Generator().manual_seed(0)), True)
    assert bool(torch.isfinite(kept).all())
    assert not drop(change(4, 4), 0.0, torch.zeros(4, 4), True).any()


def test_draws_follow_from_seed_and_name_alone():
    base = {n: torch.zeros(9, 9) for n in ("a", "b")}
    model = {n: torch.ones(9, 9) for n in ("a", "b")}
    state = torch.random.get_rng_state()
    first = merge_tensors(DareLinear(), base, [model])
    again = merge_tensors(DareLinear(), dict(reversed(base.items())), [dict(reversed(model.items()))])
    assert all(torch.equal(first[n], again[n]) for n in base)
    assert not torch.equal(first["a"], first["b"]) and not torch.equal(
        first["a"], merge_tensors(DareLinear(), base, [model], seed=1)["a"]
    )
    two = merge_tensors(DareLinear(), base, [model, model])
    assert set(two["a"].unique().tolist()) == {0.0, 2.0, 4.0}, "two models have masks of their own"
    assert torch.equal(torch.random.get_rng_state(), state)
