"""LiNeS scales by depth, WiSE-FT everywhere alike; soups average."""

from __future__ import annotations

import pytest
import torch

from tests import tiny
from tunewright.errors import MethodError
from tunewright.models.sites import discover
from tunewright.weights.edit.lines import LiNeS, factor_at, fitted_alpha
from tunewright.weights.edit.wise_ft import WiseFT
from tunewright.weights.merge.model_soups import ModelSoups, average, greedy


def change(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def alpha_of_merge(changes, merged):
    """The paper's alpha, from whole tensors. `changes`: the T models' changes of each tensor; `merged`: its change."""
    plain = sum(float(torch.stack([c.double() for c in models]).sum(0).abs().sum()) for models in changes)
    return fitted_alpha(plain, sum(float(m.double().abs().sum()) for m in merged), len(changes[0]))


def test_lines_scales_each_block_by_its_depth_found_by_structure():
    model = tiny.llama(layers=3)
    structure, method = discover(model), LiNeS(alpha=0.4)
    for name, p in model.named_parameters():
        tau, block = torch.ones_like(p), structure.block_of(name)
        wanted = 0.4 if block is None else 0.4 + 0.6 * block.depth / 2
        assert torch.allclose(method.edit(tau, structure.depth_fraction(name)), wanted * tau), name
    assert factor_at(1.0, 0.4, 0.6) == 1.0


def test_lines_identity_and_uniform():
    tau = change(4, 3)
    assert all(torch.equal(LiNeS(alpha=1, beta=0).edit(tau, d), tau) for d in (None, 0.0, 0.5, 1.0))
    assert all(torch.equal(LiNeS(alpha=0.3, beta=0).edit(tau, d), 0.3 * tau) for d in (None, 0.0, 1.0))


def test_lines_alpha_of_a_plain_sum_is_one_over_the_number_of_models():
    changes = [[change(4, 3, seed=10 * t + i) for i in range(5)] for t in range(2)]
    merged = [torch.stack(models).sum(0) for models in changes]
    assert alpha_of_merge(changes, merged) == pytest.approx(1 / 5)


def test_wise_ft_keeps_its_share_of_the_change():
    tau = change(4, 3)
    assert torch.equal(WiseFT(amount=1).edit(tau), tau) and not WiseFT(amount=0).edit(tau).any()
    assert torch.equal(WiseFT().edit(tau), tau / 2)
    torch.testing.assert_close(WiseFT(amount=0.75).edit(tau), 0.75 * tau)


def test_a_soup_of_equal_models_is_that_model_and_keeps_types():
    t = change(4, 3).bfloat16()
    assert torch.equal(average([t, t, t]), t)
    a, b = change(4, 3).bfloat16(), change(4, 3, seed=1).bfloat16()
    assert torch.equal(average([a, b]), ((a.float() + b.float()) / 2).bfloat16())
    ids = torch.arange(5)
    assert average([ids, ids]).dtype == torch.int64
    with pytest.raises(MethodError, match="integer"):
        average([ids, ids + 1])
    with pytest.raises(MethodError, match="shape"):
        average([change(2, 2), change(2, 3)])


def test_greedy_is_never_worse_than_the_best_single_and_its_mean_is_plain():
    values, asked = [0.2, 0.9, 0.55, 0.4], []

    def score(chosen):
        asked.append(chosen)
        return -abs(sum(values[i] for i in chosen) / len(chosen) - 0.5)

    chosen = greedy(4, score)
    assert score(chosen) >= max(score((i,)) for i in range(4))
    assert chosen == (2, 3) and asked[:4] == [(0,), (1,), (2,), (3,)]
    assert greedy(3, lambda c: 1.0) == (0, 1, 2), "ties are accepted, as in the paper"
    method = ModelSoups(recipe="greedy")
    assert method.pick(4, score) == chosen and ModelSoups().pick(3, lambda c: pytest.fail("asked")) == (0, 1, 2)
    models = [change(4, 3, seed=i) for i in range(3)]
    assert torch.allclose(method.merge(models), torch.stack(models).mean(0))
