"""Passthrough, NuSLERP, SCE, the Karcher mean, Arcee Fusion, NearSwap and RAM: their formulas on small numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tunewright.weights.merge.arcee_fusion import ArceeFusion, importance, threshold
from tunewright.weights.merge.karcher import Karcher, karcher
from tunewright.weights.merge.nearswap import Nearswap
from tunewright.weights.merge.nuslerp import Nuslerp
from tunewright.weights.merge.passthrough import Passthrough
from tunewright.weights.merge.ram import Ram
from tunewright.weights.merge.ramplus_tl import RamplusTl
from tunewright.weights.merge.sce import Sce, model_weights, salient
from tunewright.weights.merge.slerp import slerp
from tunewright.weights.operator import merge_one

T = torch.tensor


def vector(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def with_angle(angle: float) -> tuple[torch.Tensor, torch.Tensor]:
    q, _ = torch.linalg.qr(vector(64, 2).double())
    return q[:, 0].float(), (math.cos(angle) * q[:, 0] + math.sin(angle) * q[:, 1]).float()


def test_passthrough_gives_the_bits_and_scales():
    x = vector(6, 5)
    assert torch.equal(merge_one(Passthrough(), "w", None, [x]), x)
    assert torch.equal(merge_one(Passthrough(), "w", None, [x], each=[{"scale": 0.0}]), 0 * x)
    assert torch.equal(merge_one(Passthrough(scale=0.5), "w", None, [x]), x / 2)


def test_nuslerp_is_the_arc_of_tensors_rows_and_changes():
    a, b = with_angle(1.2)
    weights = [{"weight": 3.0}, {"weight": 1.0}]
    assert torch.allclose(merge_one(Nuslerp(), "w", None, [a, b], each=weights), slerp(a, b, 0.25), atol=1e-6)
    base = vector(64, seed=5)
    moved = merge_one(Nuslerp(), "w", base, [base + a, base + b], each=weights)
    assert torch.allclose(moved, base + slerp(a, b, 0.25), atol=1e-6)
    A, B = torch.stack([a, 2 * b]), torch.stack([b, a])
    rows = torch.stack([slerp(a, b, 0.5), slerp(2 * b, a, 0.5)])
    assert torch.allclose(merge_one(Nuslerp(nuslerp_flatten=False), "w", None, [A, B]), rows, atol=1e-6)
    columns = Nuslerp(nuslerp_flatten=False, nuslerp_row_wise=True)
    assert torch.allclose(merge_one(columns, "w", None, [A.T, B.T]), rows.T, atol=1e-6)
    assert torch.equal(merge_one(Nuslerp(), "w", None, [a, a], each=[{"weight": 1.0}, {"weight": -1.0}]), a)
    assert torch.allclose(merge_one(Nuslerp(), "w", None, [a, -a]), 0 * a, atol=1e-6), "opposites meet at zero"
    assert torch.equal(merge_one(Nuslerp(), "w", None, [0 * a, 0 * a]), 0 * a)
    assert float(merge_one(Nuslerp(nuslerp_flatten=False), "w", None, [T(2.0), T(4.0)])) == 3.0


def test_sce_selects_weighs_and_erases():
    changes = T([[4.0, 1.0, 0.0, -1.0], [2.0, -1.0, 0.0, -1.0]])
    assert salient(changes, 1.0).all() and not salient(changes, 0.4).any()
    assert salient(changes, 0.5).tolist() == [True, True, False, False], "of two that vary, both at the same variance"
    assert torch.allclose(model_weights(changes, 0.0), T([18.0, 6.0]) / 24)
    assert torch.equal(model_weights(changes, 7.0), T([0.5, 0.5])), "mean squares 4.5 and 1.5"
    merged = merge_one(Sce(), "w", torch.zeros(4), list(changes))
    assert torch.allclose(merged, T([0.75 * 4 + 0.25 * 2, 1.0, 0.0, -1.0])), (
        "second entry: the sum is 0, plus is elected"
    )
    wide = T([[1.0, 5.0, 0.0], [-1.0, 1.0, 0.0]])
    assert torch.allclose(
        merge_one(Sce(select_topk=0.5), "w", torch.zeros(3), list(wide)), T([0.0, 5 * 25 + 1, 0.0]) / T(26.0)
    )


def test_the_karcher_mean_is_where_angles_are_least():
    a, b = with_angle(1.1)
    assert torch.allclose(karcher([3 * a, b], 10, 1e-5), 2 * slerp(a, b, 0.5), atol=1e-5)
    points = [x / x.norm() for x in (vector(8, seed=s) + 2 * torch.ones(8) for s in range(4))]
    mean = karcher(points, 50, 1e-9)

    def spread(m: torch.Tensor) -> float:
        return sum(float(torch.acos((m.double() @ p.double()).clamp(-1, 1))) ** 2 for p in points)

    for s in range(20):
        near = mean + 0.05 * vector(8, seed=100 + s)
        assert spread(mean) <= spread(near / near.norm())
    chord = torch.stack(points).mean(0)
    assert spread(mean) < spread(chord / chord.norm()), "it is not the direction of the plain mean"
    assert torch.equal(merge_one(Karcher(), "w", None, [a]), a)
    zero = torch.zeros(64)
    assert torch.equal(karcher([zero, zero], 10, 1e-5), zero)
    assert torch.allclose(karcher([zero, a], 10, 1e-5), a / 2, atol=1e-7), "what has no direction counts for its length"
    assert torch.isfinite(karcher([a, -a], 10, 1e-5)).all()


def test_arcee_fusion_takes_what_lies_far_above_the_median():
    scores = T([5.0, 1.0, 2.0, 4.0, 3.0])
    assert threshold(scores) == 3 + 1.5 * (4 - 2)
    base = vector(40, 6, seed=1)
    tuned = base + 0.01 * vector(40, 6, seed=2)
    tuned[3] += 2 * vector(6, seed=3)
    merged = merge_one(ArceeFusion(), "w", base, [tuned])
    took = merged == tuned
    assert took[3].any() and not took[:3].all() and torch.equal(torch.where(took, tuned, base), merged)
    p, q = (np.exp(x[3]) / np.exp(x[3]).sum() for x in (tuned.double().numpy(), base.double().numpy()))
    wanted = (tuned[3] - base[3]).abs().numpy() * (p * np.log(p / q)).sum()
    assert np.allclose(importance(tuned, base)[3].numpy(), wanted, rtol=1e-3)
    assert torch.equal(merge_one(ArceeFusion(), "w", base, [base]), base)
    assert merge_one(ArceeFusion(), "w", torch.zeros(0), [torch.zeros(0)]).numel() == 0


def test_nearswap_moves_by_t_at_most():
    base, other = T([0.0, 0.0, 0.0, 1.0]), T([0.05, -0.3, 0.0, 1.5])
    assert torch.allclose(merge_one(Nearswap(t=0.1), "w", base, [other]), T([0.05, -0.1, 0.0, 1.1]))
    assert torch.equal(merge_one(Nearswap(t=0), "w", base, [other]), base)


def test_ram_averages_over_those_that_moved_and_ram_plus_amplifies_what_is_alone():
    base = T([1.0, 1.0, 1.0, 1.0, 1.0])
    first = base + T([2.0, 2.0, 0.0, 1e-6, 2.0])
    second = base + T([4.0, 0.0, 0.0, 0.0, 4.0])
    assert torch.equal(merge_one(Ram(), "w", base, [first, second]) - base, T([3.0, 2.0, 0.0, 0.0, 3.0]))
    third = [first, second, base.clone()]
    assert torch.equal(merge_one(Ram(), "w", base, third) - base, T([3.0, 2.0, 0.0, 0.0, 3.0])), "no mean over all"
    plus = merge_one(RamplusTl(r=0.5, alpha=10), "w", base, third) - base
    assert torch.allclose(plus, T([3.0, 2 * (1 + 0.5 * 2 / 1), 0.0, 0.0, 3.0])), "two shared, one alone"
    bounded = merge_one(RamplusTl(), "w", base, third) - base
    assert torch.allclose(bounded, T([3.0, 2 * (1 + 0.1 * 0.2), 0.0, 0.0, 3.0]))
    assert torch.equal(merge_one(RamplusTl(r=0), "w", base, third), merge_one(Ram(), "w", base, third))


@pytest.mark.parametrize("method", [Sce(), Ram(epsilon=0), RamplusTl(epsilon=0, r=0), Nearswap(t=9), Passthrough()])
def test_scalars_and_vectors_are_tensors_too(method):
    for shape in ((), (3,), (2, 3, 4)):
        base, tuned = vector(*shape, seed=1), vector(*shape, seed=2)
        assert torch.allclose(merge_one(method, "w", base, [tuned]), tuned, atol=1e-6)
