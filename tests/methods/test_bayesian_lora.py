"""Bayesian-LoRA: numbers on even grids of 2 to 32 bits, gates as their density says, bits counted exactly."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from tests import tiny
from tests.methods.driving import Run, assert_resumes, logits
from tunewright.methods.adapters.bayesian_lora import BayesianLoRA, expected
from tunewright.models import delta_format
from tunewright.models.adapted import Adapted
from tunewright.models.agreement import same_bits
from tunewright.models.nested_bits import OPEN, SHIFT, NestedBits, drawn, opened, rounded
from tunewright.models.peft_format import load_adapter, save_adapter


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gates(count: int) -> torch.Tensor:
    return torch.tensor([1.0] * count + [0.0] * (4 - count))


@pytest.mark.parametrize(("count", "bits"), [(0, 2), (1, 4), (2, 8), (3, 16)])
def test_open_gates_round_to_the_grid_of_their_bits(count, bits):
    """Against one rounding to the nearest of the 2^bits - 1 even values in +-m."""
    x, m = normal(4000).clamp(-2, 2), torch.tensor(2.0)
    width = 2 * 2.0 / (2**bits - 1)
    got = rounded(x, m, gates(count))
    wanted = (x.clamp(-2 + 2e-6, 2 - 2e-6).double() / width).round() * width
    assert float((got - wanted).abs().gt(width / 4).float().mean()) < (0.02 if bits == 16 else 1e-3)
    assert float((got - x).abs().max()) <= width / 2 * 1.001 + 1e-5
    torch.testing.assert_close((got / width).round() * width, got, atol=1e-4 * width + 1e-6, rtol=1e-5)
    if bits <= 8:
        assert len((got / width).round().unique()) <= 2**bits - 1


def test_all_gates_open_give_the_numbers_back_and_those_outside_are_cut():
    x = normal(100) * 0.3
    torch.testing.assert_close(rounded(x, x.abs().max(), gates(4)), x, atol=2e-6, rtol=1e-5)
    assert rounded(torch.tensor([5.0, -5.0]), torch.tensor(1.0), gates(4)).tolist() == pytest.approx([1.0, -1.0], 1e-4)


def test_a_shut_gate_shuts_all_finer_ones_and_gradients_pass():
    x, m = normal(50).requires_grad_(), torch.tensor(5.0, requires_grad=True)
    z = torch.tensor([0.0, 1.0, 1.0, 1.0], requires_grad=True)
    got = rounded(x, m, z)
    torch.testing.assert_close(got.detach(), rounded(x.detach(), m.detach(), gates(0)))
    (got * normal(50, seed=1)).sum().backward()
    torch.testing.assert_close(x.grad, normal(50, seed=1))
    assert float(z.grad[0]) != 0 and not z.grad[1:].any() and float(m.grad) != 0


def test_gates_are_open_as_often_as_the_density_says():
    for phi in (-2.0, 0.0, 2.0):
        z = drawn(torch.full((200_000,), phi), torch.rand(200_000, generator=torch.Generator().manual_seed(0)))
        assert float((z > 0).float().mean()) == pytest.approx(1 / (1 + math.exp(-phi - SHIFT)), abs=5e-3)
        assert 0 <= float(z.min()) and float(z.max()) <= 1
    assert pytest.approx(-0.935, abs=2e-3) == OPEN and pytest.approx(1.599, abs=1e-3) == SHIFT
    assert opened(torch.tensor([OPEN - 0.01, OPEN + 0.01])).tolist() == [0, 1]


def change(r=4, bits=6.0, pieces=6.0) -> NestedBits:
    return NestedBits(
        normal(r, 6),
        normal(5, r, seed=1),
        normal(r, seed=2),
        0.5,
        torch.full((3, 4), bits),
        torch.full((r - 1,), pieces),
    ).eval()


def test_pieces_are_kept_up_to_the_first_that_is_shut():
    d = change()
    d.pieces.data = torch.tensor([6.0, -6.0, 6.0])
    B = d.pair()[1]
    assert B[:, :2].any(0).all() and not B[:, 2:].any()
    wanted = 0.5 * sum(d.factor[i] * torch.outer(d.lora_B[:, i], d.lora_A[i]) for i in range(2))
    torch.testing.assert_close(d.change(), wanted, atol=1e-4, rtol=1e-3)


def test_bits_are_counted_as_the_gates_stand():
    d = change()
    assert d.bits_of() == (4 * (6 + 5 + 1) * 32, 4 * 12)
    d.bits.data = torch.tensor([[6.0, -6, 6, 6], [-6, 6, 6, 6], [6, 6, -6, 6]])  # 4, 2 and 8 bits
    d.pieces.data = torch.tensor([6.0, -6.0, 6.0])
    assert d.bits_of() == (2 * (6 * 4 + 5 * 2 + 8), 48)


def test_the_prior_is_the_expected_number_of_open_gates():
    phi = torch.tensor([1.0, -1.0, 0.5])
    q = [1 / (1 + math.exp(-p - SHIFT)) for p in phi.tolist()]
    assert float(expected(phi)) == pytest.approx(q[0] + q[0] * q[1] + q[0] * q[1] * q[2])
    d = change()
    weights = {"w": SimpleNamespace(deltas={"bayesian-lora": d}), "v": SimpleNamespace(deltas={"lora": None})}
    one = float(expected(d.bits[0]) * 3 + expected(d.pieces))
    assert float(BayesianLoRA(prior=0.5).penalty(weights)) == pytest.approx(0.5 * one, rel=1e-4)


def made(listen=None, steps=8, **fields) -> Run:
    return Run({"bayesian-lora": BayesianLoRA(**{"rank": 4, **fields})}, steps=steps, listen=listen)


@pytest.mark.slow
def test_a_strong_prior_shuts_gates_and_a_weak_one_leaves_them():
    def bits(prior):
        run = made(steps=30, prior=prior, gate_rate=0.3)
        run.train()
        run.methods.event("end_task", stage="main", adapted=run.adapted)
        return next(iter(run.methods)).method.found(run.state("bayesian-lora"))

    weak, strong = bits(0.0), bits(10.0)
    assert strong.values["bits a number"] < 4 < weak.values["bits a number"] <= 32
    assert all(row[2] == 1 for row in strong.rows)
    assert strong.values["bytes"] * 8 == pytest.approx(
        strong.values["bits a number"] * sum(4 * (s.in_features + s.out_features + 1) for s in sites())
    )


def sites():
    return Adapted(tiny.llama()).structure.linear_sites()


def test_gates_learn_at_a_rate_of_their_own():
    run = made(gate_rate=0.05)
    factors = BayesianLoRA(gate_rate=0.05).rates(run.adapted.trainable_deltas(), SimpleNamespace(learning_rate=1e-2))
    assert set(factors.values()) == {5.0} and len(factors) == 3 * 14
    before = {n: p.detach().clone() for n, p in run.adapted.trainable_deltas().items()}
    run.train()
    moved = {n.rpartition(".")[2] for n, p in run.adapted.trainable_deltas().items() if not torch.equal(p, before[n])}
    assert moved == {"lora_A", "lora_B", "factor", "bits", "pieces", "ranges"}


def test_training_draws_gates_and_nothing_else_does(tmp_path):
    run = made()
    run.train()
    assert run.records[-1]["loss"] < run.records[0]["loss"]
    assert same_bits(logits(run.adapted.model), logits(run.adapted.model))
    wanted = logits(run.adapted.model)
    save_adapter(run.adapted, tmp_path / "lora", "tiny")
    again = Adapted(tiny.llama())
    load_adapter(again, tmp_path / "lora")
    assert torch.allclose(logits(again.model), wanted, atol=1e-5)
    delta_format.save_delta(run.adapted, tmp_path / "own", "tiny")
    own = Adapted(tiny.llama())
    delta_format.load_delta(own, tmp_path / "own")
    assert same_bits(logits(own.model), wanted)
    run.adapted.model.train()
    d = next(iter(run.adapted.deltas().values()))["bayesian-lora"]
    one = d.pair()[1]
    assert torch.equal(one, d.pair()[1]), "one draw a step, however often it is asked"
    d.draw(torch.Generator().manual_seed(1))
    assert not torch.equal(one, d.pair()[1])


def test_every_step_draws_anew():
    seen = []
    run = made(lambda loop: seen.append(next(iter(run.adapted.deltas().values()))["bayesian-lora"].noise.clone()))
    run.train()
    assert len({tuple(n.tolist()) for n in seen}) == len(seen) == 8


def test_it_resumes():
    assert_resumes(lambda listen: made(listen, steps=5), 2)
