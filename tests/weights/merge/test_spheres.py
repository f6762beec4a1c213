"""SLERP, its mean of several models, and model stock's angle."""

from __future__ import annotations

import math

import pytest
import torch

from tunewright.errors import MethodError
from tunewright.weights.merge.model_stock import ModelStock, model_stock, ratio
from tunewright.weights.merge.multi_slerp import MultiSlerp, multislerp
from tunewright.weights.merge.slerp import COLINEAR, Slerp, cosine, slerp
from tunewright.weights.operator import merge_one


def vector(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def with_angle(angle: float) -> tuple[torch.Tensor, torch.Tensor]:
    q, _ = torch.linalg.qr(vector(64, 2).double())
    return q[:, 0].float(), (math.cos(angle) * q[:, 0] + math.sin(angle) * q[:, 1]).float()


def test_the_ends_of_the_arc_are_the_models():
    a, b = vector(6, 5, seed=1), vector(6, 5, seed=2)
    assert torch.equal(slerp(a, b, 0.0), a) and torch.allclose(slerp(a, b, 1.0), b, atol=1e-6)
    assert torch.allclose(slerp(a, b, 0.3), slerp(b, a, 0.7), atol=1e-6), "the same arc from the other end"
    assert torch.allclose(merge_one(Slerp(t=0.25), "w", None, [a, b]), slerp(a, b, 0.25))


@pytest.mark.parametrize("angle", [0.05, 0.7, 1.5, 2.9])
def test_the_angle_grows_at_a_constant_speed_and_length_stays(angle):
    a, b = with_angle(angle)
    for t in (0.0, 0.1, 0.25, 0.5, 0.9, 1.0):
        s = slerp(a, b, t)
        assert float(s.norm()) == pytest.approx(1, abs=1e-5)
        turned = 2 * math.asin(min(1.0, float((s - a).double().norm()) / 2))
        assert turned == pytest.approx(t * angle, abs=2e-5)


def test_colinear_tensors_are_interpolated_plainly():
    a, near = with_angle(0.5 * math.acos(COLINEAR))
    assert torch.allclose(slerp(a, 3 * near, 0.25), 0.75 * a + 0.75 * near, atol=1e-7)
    assert torch.allclose(slerp(a, -a, 0.5), torch.zeros(64), atol=1e-7), "opposites meet at zero, not at infinity"
    assert torch.equal(slerp(a, a, 0.3), 0.7 * a + 0.3 * a)
    zero = torch.zeros(64)
    assert torch.allclose(slerp(zero, a, 0.5), math.sqrt(0.5) * a), "a zero vector counts as orthogonal"
    assert cosine(a, -2 * a) == pytest.approx(-1)


def test_multislerp_is_the_mean_direction_at_the_mean_length():
    tensors, weights = [vector(6, 5, seed=s) * (s + 1) for s in range(3)], [0.2, 0.5, 0.3]
    direction = sum(w * t / t.norm() for w, t in zip(weights, tensors, strict=True))
    wanted = direction / direction.norm() * sum(w * t.norm() for w, t in zip(weights, tensors, strict=True))
    assert torch.allclose(multislerp(tensors, weights), wanted, atol=1e-5)
    assert torch.allclose(multislerp(tensors, [2 * w for w in weights]), wanted, atol=1e-5)
    a, b = with_angle(1.1)
    assert torch.allclose(multislerp([a, b], [1.0, 1.0]), slerp(a, b, 0.5), atol=1e-6), (
        "of two alike it is the middle of their arc"
    )
    base = vector(64, seed=9)
    assert torch.allclose(merge_one(MultiSlerp(), "w", base, [base + a, base + b]), base + slerp(a, b, 0.5), atol=1e-5)


def test_multislerp_says_when_directions_cancel():
    a = vector(8, seed=1)
    assert torch.allclose(multislerp([a, -a], [1.0, 1.0]), torch.zeros(8), atol=1e-6)
    with pytest.raises(MethodError, match="cancel"):
        multislerp([torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 0.0]), torch.tensor([0.0, 1.0])], [1.0, 1.0, 0.0])
    with pytest.raises(MethodError, match="sum to 0"):
        multislerp([a, 2 * a], [1.0, -1.0])
    zeros = [torch.zeros(4)] * 3
    assert torch.equal(multislerp(zeros, [1.0] * 3), torch.zeros(4)), "a tensor that no model changed"


@pytest.mark.parametrize("k", [2, 3, 5])
@pytest.mark.parametrize("spread", [0.1, 1.0, 4.0])
def test_model_stock_finds_the_point_nearest_to_the_centre(k, spread):
    """Base and k tunings around a centre, all directions from it orthogonal: the merge is the foot of the perpendicular
    from the centre on the plane through base and tunings, found here by least squares without knowing the formula."""
    axes, _ = torch.linalg.qr(vector(64, k + 1).double())
    centre = vector(64, seed=3).double()
    base = centre + 2 * axes[:, k]
    tunings = [centre + spread * axes[:, i] for i in range(k)]
    plane = torch.stack([t - base for t in tunings], 1)
    foot = base + plane @ torch.linalg.lstsq(plane, (centre - base)[:, None]).solution[:, 0]
    found = model_stock(base.float(), [t.float() for t in tunings])
    assert torch.allclose(found.double(), foot, atol=1e-5)
    cos = 4 / (4 + spread**2)
    assert float(ratio([(t - base).float()[None] for t in tunings])) == pytest.approx(
        k * cos / (1 + (k - 1) * cos), rel=1e-4
    )


def test_model_stock_at_its_ends():
    base, tau = vector(6, 5), vector(6, 5, seed=1)
    assert torch.allclose(model_stock(base, [base + tau] * 3), base + tau, atol=1e-6)
    a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    assert torch.equal(model_stock(torch.zeros(1, 2), [a, b]), torch.zeros(1, 2)), "orthogonal tunings give the base"
    assert torch.equal(model_stock(torch.zeros(1, 2), [a, -a]), torch.zeros(1, 2)), "opposing ones too"
    assert torch.equal(model_stock(base, [base, base]), base), "nothing changed"


def test_model_stock_by_row_has_an_angle_a_row():
    base = torch.zeros(2, 3)
    a, b = torch.tensor([[1.0, 0, 0], [1.0, 0, 0]]), torch.tensor([[1.0, 0, 0], [0, 1.0, 0]])
    rows = merge_one(ModelStock(filter_wise=True), "w", base, [a, b])
    assert torch.allclose(rows, torch.tensor([[1.0, 0, 0], [0, 0, 0]]), atol=1e-6)
    whole = merge_one(ModelStock(), "w", base, [a, b])
    assert float(whole[1, 0]) > 0.1
    vector_ = vector(5, seed=1)
    assert torch.allclose(model_stock(torch.zeros(5), [vector_, vector_], filter_wise=True), vector_, atol=1e-6), (
        "a vector is one row"
    )
