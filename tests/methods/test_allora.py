"""ALLoRA: the factor is eta at zero and falls as a row grows; it scales the optimizer's step and not its gradient."""

from __future__ import annotations

import pytest
import torch

from tests.methods.driving import Run, assert_resumes, changed
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.optimization.allora import ALLoRA, factors, row_norms


def test_factor_is_eta_at_zero_and_falls_with_the_length():
    c = factors(torch.tensor([0.0, 0.01, 1.0, 100.0]), 2.0)
    assert c[0] == 2.0 and bool((c[1:] < c[:-1]).all())
    torch.testing.assert_close(c[3], torch.tensor(1 / (100.0 + 0.25) ** 0.5))
    torch.testing.assert_close(factors(torch.tensor([0.0, 1.0, 9.0]), 1e-4) / 1e-4, torch.ones(3), atol=1e-6, rtol=0)


def test_rows_of_the_product_are_measured_without_forming_it():
    rng = torch.Generator().manual_seed(0)
    B, A = torch.randn(7, 3, generator=rng), torch.randn(3, 11, generator=rng)
    torch.testing.assert_close(row_norms(B, A), torch.linalg.vector_norm(B @ A, dim=1))
    torch.testing.assert_close(row_norms(B), torch.linalg.vector_norm(B, dim=1))


def test_the_first_step_is_eta_times_lora_s():
    def step_of(method):
        run = Run({"x": method}, steps=1, max_grad_norm=None)  # one name: equal draws
        start = {n: p.detach().clone() for n, p in run.adapted.delta_parameters().items()}
        loop = run.train()
        return {n: p.detach() - start[n] for n, p in loop.adapted.delta_parameters().items()}

    plain, scaled = step_of(LoRA(rank=4, alpha=4.0)), step_of(ALLoRA(rank=4, eta=3.0))
    for name, change in plain.items():
        torch.testing.assert_close(
            scaled[name], change * 3.0 if name.endswith("lora_B") else change, atol=1e-7, rtol=1e-4
        )


@pytest.mark.parametrize("norm", ["B", "product"])
def test_each_later_step_uses_the_rows_before_it(norm):
    method = ALLoRA(rank=2, norm=norm)
    rng = torch.Generator().manual_seed(1)
    B, A = torch.randn(5, 2, generator=rng), torch.randn(2, 6, generator=rng)
    other = torch.randn(4, generator=rng)
    changes = {"s.delta.x.lora_B": torch.ones(5, 2), "s.delta.x.lora_A": torch.ones(2, 6), "w": other}
    got = method.update(changes, {"s.delta.x.lora_B": B, "s.delta.x.lora_A": A, "w": other})
    length = torch.linalg.vector_norm(B if norm == "B" else B @ A, dim=1)
    torch.testing.assert_close(got["s.delta.x.lora_B"], (1 / (length + 0.25).sqrt())[:, None].expand(5, 2))
    assert got["s.delta.x.lora_A"] is changes["s.delta.x.lora_A"] and got["w"] is other
    assert bool((changes["s.delta.x.lora_B"] == 1).all())


def test_resumes_and_differs_from_lora():
    assert_resumes(lambda listen: Run({"allora": ALLoRA(rank=2)}, steps=5, listen=listen), 3)
    a, b = changed(Run({"allora": ALLoRA(rank=2)}).train()), changed(Run({"allora": ALLoRA(rank=2, eta=0.5)}).train())
    assert any(not torch.equal(a[n], b[n]) for n in a)
