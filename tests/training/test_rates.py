"""Factors of the learning rate by parameter: they act on the step, multiply, stay through drawings and resumes."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from pydantic import Field
from torch import Tensor, nn

from tests.methods.driving import Run, assert_resumes, changed
from tunewright.contract.method import Choice, Method
from tunewright.errors import MethodError
from tunewright.methods.adapters.lora import LoRA


class Rates(Method):
    """`factor` times the rate of the parameters whose name ends so."""

    end: str = Field("lora_B", description="end of the names")
    factor: float = Field(3.0, description="factor of their rate")

    def rates(self, parameters: Mapping[str, Tensor]) -> dict[str, float]:
        return {n: self.factor for n in parameters if n.endswith(self.end)}


class Also(Rates):
    """The same again under another name."""


def moves(**methods):
    """How far each delta's parameters go in the first step."""
    run = Run({"x": LoRA(rank=2), **methods}, steps=1, max_grad_norm=None)
    start = {n: p.detach().clone() for n, p in run.adapted.delta_parameters().items()}
    loop = run.train()
    return {n: p.detach() - start[n] for n, p in loop.adapted.delta_parameters().items()}, run.records[0]


def test_a_factor_multiplies_the_step_of_what_it_names_alone():
    plain, record = moves()
    tripled, again = moves(r=Rates(), a=Also(factor=0.5))
    for name, move in plain.items():
        times = 1.5 if name.endswith("lora_B") else 1.0
        torch.testing.assert_close(tripled[name], times * move, atol=1e-8, rtol=1e-4)
    assert record["learning_rate"] == again["learning_rate"] == pytest.approx(1e-2)


def test_a_factor_of_one_changes_no_bit_and_none_stops():
    plain, _ = moves()
    one, _ = moves(r=Rates(factor=1.0))
    assert all(torch.equal(one[n], plain[n]) for n in plain)
    still, _ = moves(r=Rates(factor=0.0))
    assert not any(bool(still[n].any()) for n in still) and any(bool(plain[n].any()) for n in still)


def test_the_schedule_and_weight_decay_follow():
    end = Run({"x": LoRA(rank=2), "r": Rates()}, steps=1, weight_decay=0.5, lr_scheduler_type="linear").train()
    groups = end.optimizers.optimizers[0].param_groups
    assert sorted(g["lr"] for g in groups) == pytest.approx([1e-2, 3e-2]) and {g["weight_decay"] for g in groups} == {
        0.5
    }


class Turns(Method):
    """Another half of the delta's parameters every step."""

    requires: ClassVar[tuple[str, ...]] = ("attach",)

    def choose(self, candidates, step) -> Choice:
        return Choice(tuple(sorted(candidates.deltas))[step % 2 :: 2], redraw_every=1, moments="park")


def test_rates_hold_for_what_is_drawn_later_and_in_a_resumed_run():
    def make(listen):
        return Run({"x": LoRA(rank=2), "t": Turns(), "r": Rates()}, steps=4, listen=listen)

    assert_resumes(make, 3)
    without = changed(Run({"x": LoRA(rank=2), "t": Turns()}, steps=4).train())
    assert any(not torch.equal(t, without[n]) for n, t in changed(make(None).train()).items())


@pytest.mark.parametrize(
    ("factor", "names", "words"),
    [(-1.0, None, "-1.0 times"), (float("nan"), None, "nan times"), (2.0, {"nosuch.weight": 2.0}, "does not train")],
)
def test_a_rate_that_is_none_is_refused(factor, names, words):
    class Wrong(Rates):
        def rates(self, parameters):
            return names or super().rates(parameters)

    with pytest.raises(MethodError, match=words):
        Run({"x": LoRA(rank=2), "r": Wrong(factor=factor)}, steps=1).train()


class Forgets(Method):
    """An optimizer that leaves a parameter out."""

    def optimizer(self, parameters: dict[str, nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
        return torch.optim.SGD(list(parameters.values())[1:], lr=learning_rate)


def test_an_optimizer_that_leaves_a_parameter_out_is_refused():
    with pytest.raises(MethodError, match="missing"):
        Run({"x": LoRA(rank=2), "o": Forgets()}, steps=1).train()


class Named(Method):
    """An optimizer that is told names and structure."""

    def optimizer(self, parameters, learning_rate, structure, plan) -> torch.optim.Optimizer:
        assert plan.steps == 1 and structure.blocks
        low = [p for n, p in parameters.items() if "layers.0." in n]
        high = [p for n, p in parameters.items() if "layers.0." not in n]
        return torch.optim.SGD([{"params": low, "lr": 0.0}, {"params": high}], lr=learning_rate)


def test_an_optimizer_knows_its_parameters_by_name_and_keeps_rates_of_its_own():
    run = Run({"x": LoRA(rank=2), "o": Named()}, steps=1)
    start = {n: p.detach().clone() for n, p in run.adapted.delta_parameters().items()}
    run.train()
    moved = {n for n, p in run.adapted.delta_parameters().items() if not torch.equal(p, start[n])}
    assert moved and not any("layers.0." in n for n in moved)


def test_a_schedule_by_what_is_spent_ends_where_the_budget_does():
    """Seconds or operations end the stage: the rate has then come down, however many steps that took."""
    whole = Run({"x": LoRA(rank=2)}, steps=8).train().flops
    run = Run({"x": LoRA(rank=2)}, steps=3, lr_scheduler_type="linear", plan={"exact": False})
    run.stage.budget = SimpleNamespace(tokens=None, steps=None, seconds=None, flops=whole, epochs=None)
    run.cursor.exhausted = False
    run.train()
    rates = [r["learning_rate"] for r in run.records]
    assert 6 <= len(rates) <= 10 and all(b < a for a, b in zip(rates, rates[1:], strict=False)) and rates[-1] < 3e-3
