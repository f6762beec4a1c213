"""The zoo's shifts on domains made for the purpose, the balancing weights and the dependence against their formulas."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tunewright.contract.batch import Outputs
from tunewright.contract.method import Needs
from tunewright.errors import MethodError
from tunewright.methods.objectives.diverse_model_zoo import DiverseModelZoo, balancing_weights, dependence
from tunewright.pieces.domain_shift import shifts
from tunewright.tasks import get_task


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_equal_domains_shift_in_neither_way_and_disjoint_ones_in_diversity_only():
    y = torch.arange(400) % 2
    a, b = normal(400, 2) + 3.0 * y[:, None], normal(400, 2, seed=1) + 3.0 * y[:, None]
    diversity, correlation = shifts(a, y, b, y)
    assert diversity < 0.02 and correlation < 0.12
    diversity, correlation = shifts(a, y, b + 60, y)
    assert diversity > 0.98 and correlation < 0.02


def test_a_link_that_flips_is_correlation_only():
    y = torch.arange(400) % 2
    colour = 8.0 * y[:, None]
    diversity, correlation = shifts(colour + normal(400, 1), y, 8 - colour + normal(400, 1, seed=1), y)
    assert diversity < 0.02 and correlation > 0.9
    with pytest.raises(MethodError, match="9 dimensions"):
        shifts(normal(40, 9), y[:40], normal(40, 9), y[:40])
    with pytest.raises(MethodError, match="class 2 has 1"):
        shifts(normal(41, 1), torch.cat([y[:40], torch.tensor([2])]), normal(40, 1), y[:40])


def test_rows_that_the_correlated_model_is_sure_of_count_less():
    logits, y = torch.tensor([[4.0, 0.0], [0.0, 4.0], [0.0, 0.0]]), torch.tensor([0, 0, 1])
    p = logits.softmax(-1)[torch.arange(3), y]
    w = (0.5 / p).clamp(max=5.0)
    torch.testing.assert_close(balancing_weights(logits, y, 5.0), w / w.mean())
    assert torch.equal(balancing_weights(torch.zeros(3, 2), y, 5.0), torch.ones(3))


def test_dependence_is_one_for_the_same_features_small_for_others_and_lets_a_gradient_through():
    f = normal(200, 3)
    assert float(dependence(f, f)) == pytest.approx(1.0, abs=1e-5)
    assert float(dependence(f, f @ torch.linalg.qr(normal(3, 3, seed=4))[0])) == pytest.approx(1.0, abs=1e-3)
    assert float(dependence(f, normal(200, 3, seed=2))) < 0.1 < float(dependence(f, f.square()))
    h = f.clone().requires_grad_()
    dependence(h, f).backward()
    assert bool(torch.isfinite(h.grad).all())
    few = f[:6].double().requires_grad_()
    assert float(dependence(f[:1], f[:1])) == 0.0 and few.shape == (6, 3)


def test_the_objective_balances_by_one_auxiliary_and_is_independent_of_the_other():
    from tests.methods.driving import image_rows

    batch = get_task("image-classification").collate(image_rows(6))
    logits, features, other, sure = normal(6, 3), normal(6, 4, seed=1), normal(6, 2, seed=2), normal(6, 3, seed=3)
    outputs = Outputs(logits, batch.labels, features=features)
    aux = Needs({"auxiliary_outputs": ((features, sure), (other, logits))})
    found = DiverseModelZoo(independence=0.3, most=4.0).objective(outputs, batch, aux).value
    p = sure.softmax(-1)[torch.arange(6), batch.labels]
    weights = (1 / (3 * p)).clamp(max=4.0)
    plain = F.cross_entropy(logits, batch.labels, reduction="none")
    expected = (plain * weights / weights.mean()).mean() + 0.3 * dependence(features, other)
    assert float(found) == pytest.approx(float(expected), abs=1e-5)
    assert abs(float(found) - float(plain.mean() + 0.3 * dependence(features, other))) > 0.01


def test_with_neither_auxiliary_or_no_weight_it_is_cross_entropy():
    from tests.methods.driving import image_rows

    batch = get_task("image-classification").collate(image_rows(6))
    logits, features = normal(6, 3), normal(6, 4, seed=1)
    outputs = Outputs(logits, batch.labels, features=features)
    plain = F.cross_entropy(logits, batch.labels)
    alone = DiverseModelZoo(correlated=None, diverse=None)
    assert not alone.needs() and torch.allclose(alone.objective(outputs, batch, Needs({})).value, plain)
    flat = Needs({"auxiliary_outputs": ((features, torch.zeros(6, 3)), (features, logits))})
    assert torch.allclose(DiverseModelZoo(independence=0.0).objective(outputs, batch, flat).value, plain)
    assert float(DiverseModelZoo(independence=0.5).objective(outputs, batch, flat).value) == pytest.approx(
        float(plain) + 0.5, abs=1e-5
    )
