"""Validation rows inside a step: their gradient is the plain one, nothing else moves, and their place is saved."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from tests.methods.driving import Run, assert_resumes, snapshot, text_rows
from tunewright.conformance.bench import Dataset
from tunewright.contract.method import Method, State
from tunewright.contract.needs import NeedContext
from tunewright.errors import MethodError
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.parameter_selection.full import FullFineTuning as Full
from tunewright.training.losses import sum_weights, weighted_sum


def held() -> Dataset:
    return Dataset("held", [r for r in text_rows()][::-1][:5])


class Looks(Method):
    """Reads validation in the step and in the update."""

    def setup(self, run):
        return State(norms=[], losses=[])

    def step(self, inner, validation, state):
        before = inner.gradients()
        kept = {n: g.clone() for n, g in before.items()}
        gradients = validation.gradients()
        state.data["norms"].append(float(sum(g.pow(2).sum() for g in gradients.values())))
        state.data["losses"].append(validation.losses(rows=3)["held"])
        assert gradients.keys() == before.keys()
        assert all(torch.equal(inner.parameters[n].grad, kept[n]) for n in kept)


class Updates(Method):
    """Reads validation after the optimizer."""

    def setup(self, run):
        return State(losses=[])

    def update(self, changes, validation, state):
        state.data["losses"].append(validation.loss(validation.next_batch()))
        return changes


def make(methods, listen=None, steps=4):
    run = Run(methods, steps=steps, listen=listen)
    run.stage.validation = held()
    return run


def test_reading_validation_changes_no_bit_of_training_and_resumes():
    plain = Run({"m": LoRA(rank=2)}, steps=4).train().trained.changed()
    looked = make({"m": LoRA(rank=2), "looks": Looks()})
    seen = looked.train().trained.changed()
    assert all(torch.equal(plain[n], seen[n]) for n in plain)
    losses = looked.state("looks").data["losses"]
    assert losses[-1] != losses[0] and all(n > 0 for n in looked.state("looks").data["norms"])
    assert_resumes(lambda listen: make({"m": LoRA(rank=2), "looks": Looks()}, listen), 2)
    again = make({"m": Full(), "u": Updates()})
    again.train()
    assert len(set(again.state("u").data["losses"])) == 4


class Turns(Method):
    """Trains by the batch of validation that is next."""

    def step(self, inner, validation):
        inner.gradients()
        for n, g in validation.gradients().items():
            inner.parameters[n].grad = g


def test_a_resumed_stage_goes_on_with_the_next_validation_rows_and_keeps_what_was_counted():
    kept = []

    def turns(listen):
        run = Run({"m": Full(), "t": Turns()}, steps=4, batch_tokens=20, listen=listen)
        run.stage.validation = held()
        return run

    whole = turns(lambda loop: kept.append(snapshot(loop)) if loop.step_number == 2 else None)
    counted = whole.train().flops
    resumed = turns(None).train(kept[0])
    assert resumed.flops == counted > 0
    assert_resumes(turns, 2)


def test_the_gradient_is_that_of_the_plain_loss_at_the_present_weights():
    found = {}

    class Takes(Method):
        def step(self, inner, validation):
            inner.gradients()
            batches = validation.next_batch()
            found["ours"] = validation.gradients(batches)
            found["batches"] = batches

    run = make({"m": Full(), "t": Takes()}, steps=1)
    loop = SimpleNamespace(**{"apply": None})
    real = run.train()
    del loop
    # the weights have moved since: put them back and differentiate by hand
    real.adapted.forget_changes()
    for p in real.adapted.base_parameters().values():
        p.requires_grad_(True)
        p.grad = None
    batches = found["batches"]
    total = sum_weights(batches, None)
    model = real.adapted.model.eval()
    sum(weighted_sum(run.task.loss(run.task.forward(model, b), b), b, None) for b in batches).div(total).backward()
    for n, p in real.adapted.base_parameters().items():
        torch.testing.assert_close(found["ours"][n], p.grad, atol=1e-6, rtol=1e-4)


def test_what_is_not_there_is_named():
    with pytest.raises(MethodError, match="'looks' chooses on validation rows") as caught:
        Run({"m": LoRA(rank=2), "looks": Looks()}, steps=1).train()
    assert "data.validation" in caught.value.remedy


def test_rows_that_the_run_is_measured_on_are_out_of_reach():
    context = NeedContext(None, None, 0, {"eval": text_rows(), "train": text_rows()})  # type: ignore[arg-type]
    with pytest.raises(MethodError, match="measured on") as caught:
        context.source("eval")
    assert "validation" in caught.value.remedy
