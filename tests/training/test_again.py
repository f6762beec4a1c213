"""An objective may run the model again: as the base, with other weights, other inputs or other dropout."""

from __future__ import annotations

import pytest
import torch
from pydantic import Field

from tests import tiny
from tests.methods.driving import Run, assert_resumes
from tunewright.contract.batch import Loss
from tunewright.contract.method import Method, State
from tunewright.errors import MethodError
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.needs.reference_log_probs import ReferenceLogProbs
from tunewright.methods.parameter_selection.full import FullFineTuning as Full


class Spy(Method):
    """Plain training that notes what a second forward says."""

    def setup(self, run):
        return State(seen=[])

    def needs(self):
        return (ReferenceLogProbs(),)

    def objective(self, outputs, batch, forward, needs, state):
        first = outputs.log_probs()
        same = forward(batch).log_probs()
        base = forward(batch, base=True).log_probs()
        assert same.requires_grad and not base.requires_grad
        state.data["seen"].append(
            [float((same - first).abs().max()), float((base - needs.reference_log_probs).abs().max())]
        )
        return Loss(-first)


@pytest.mark.parametrize("method", [LoRA(rank=2), Full()], ids=["lora", "full"])
def test_again_is_the_same_and_the_base_is_the_base(method):
    run = Run({"m": method, "spy": Spy()}, steps=3)
    run.train()
    seen = run.state("spy").data["seen"]
    assert len(seen) == 3 and all(same < 1e-5 and base == 0.0 for same, base in seen)


class Start(Method):
    """Asks the model as it was when the stage began, by weights that it keeps."""

    def setup(self, run):
        state = State(seen=[])
        for n, p in run.adapted.base_parameters().items():
            state.set_buffer(n, p.detach().clone())
        return state

    def objective(self, outputs, batch, forward, state):
        kept = {n.replace("/", "."): t for n, t in state.named_buffers()}
        with torch.no_grad():
            now = outputs.log_probs().clone()
        then = forward(batch, weights=kept).log_probs()
        base = forward(batch, base=True).log_probs()
        after = forward(batch, grad=False).log_probs()
        state.data["seen"].append([float((then - base).abs().max()), float((after - now).abs().max())])
        return Loss(-outputs.log_probs())


def test_other_weights_stand_in_the_place_of_those_that_train_and_leave_again():
    run = Run({"m": Full(), "start": Start()}, steps=3, model=tiny.llama())
    run.train()
    seen = run.state("start").data["seen"]
    assert all(then == 0.0 and after < 1e-5 for then, after in seen), seen


class TwoMasks(Method):
    """R-Drop's core: two forwards under different dropout."""

    dropout: bool = Field(True, description="whether the second forward drops")

    def setup(self, run):
        return State(gaps=[])

    def objective(self, outputs, batch, forward, state):
        second = forward(batch, dropout=self.dropout).log_probs()
        state.data["gaps"].append(float((outputs.log_probs() - second).detach().abs().max()))
        return Loss(-outputs.log_probs() - second)


def test_a_second_forward_draws_its_own_dropout_and_a_resumed_run_the_same():
    def make(listen):
        return Run({"m": LoRA(rank=2, dropout=0.5), "r": TwoMasks()}, steps=4, listen=listen)

    assert_resumes(make, 2)
    run = make(None)
    run.train()
    # from the second step on: at first B is 0, and what is dropped before it does not matter
    assert all(g > 0 for g in run.state("r").data["gaps"][1:])


class Coupled(TwoMasks):
    """Over the whole batch."""

    couples = "batch"


def test_a_joined_batch_cannot_be_run_again_and_says_what_to_ask_for():
    with pytest.raises(MethodError, match="joined") as caught:
        Run({"m": LoRA(rank=2), "r": Coupled()}, steps=1, micro_tokens=12).train()
    assert "Need" in caught.value.remedy


def test_unknown_weights_are_refused():
    class Wrong(Method):
        def objective(self, outputs, batch, forward):
            return Loss(forward(batch, weights={"nosuch": torch.zeros(1)}).log_probs())

    with pytest.raises(MethodError, match="nosuch"):
        Run({"m": LoRA(rank=2), "w": Wrong()}, steps=1).train()
