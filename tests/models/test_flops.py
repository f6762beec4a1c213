"""Operations are counted as they happen: against torch's own counter, and by the rules of who trains what."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tests import tiny
from tests.methods.driving import Run
from tunewright.contract.batch import Loss
from tunewright.contract.method import Method
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.needs.reference_log_probs import ReferenceLogProbs
from tunewright.models.flops import counting
from tunewright.models.head import head_log_probs

PRODUCTS = ("mm", "addmm", "convolution", "convolution_backward")


@contextmanager
def torchs():
    """What torch counts of products with weights: those of activations with each other are `bmm` or attention."""
    found = {}
    with FlopCounterMode(display=False) as counter:
        yield found
    for op, n in counter.get_flop_counts()["Global"].items():
        name = str(op).split(".")[-1]
        found[name] = found.get(name, 0) + n
    found["products"] = sum(found.get(name, 0) for name in PRODUCTS)


@pytest.mark.parametrize("make", [tiny.llama, tiny.gpt2, tiny.bert], ids=["llama", "gpt2", "bert"])
@pytest.mark.parametrize("trains", ["all", "half", "nothing"])
def test_forward_and_backward_agree_with_torch(make, trains):
    model = make()
    named = list(model.named_parameters())
    for i, (_, p) in enumerate(named):
        p.requires_grad_(trains == "all" or (trains == "half" and i % 2 == 0))
    ids = torch.full((2, 8), 9)
    with torchs() as expected, counting() as counted:
        out = model(ids)
        if trains != "nothing":
            out.logits.float().sum().backward()
    assert counted.total == pytest.approx(expected["products"], rel=1e-6) and counted.total > 0


def test_a_convolution_is_counted_by_its_output():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(200, 5))
    x = torch.randn(2, 3, 11, 11)
    with torchs() as expected, counting() as counted:
        model(x).sum().backward()
    assert counted.total == pytest.approx(expected["products"], rel=1e-6)
    with counting() as grouped:
        nn.Conv2d(8, 8, 3, groups=4)(torch.randn(2, 8, 5, 5)).sum().backward()
    assert grouped.total == 2 * (2 * 2 * 9 * 8 * 2 * 9)  # forward and its own gradient: a filter reads 2 channels


@pytest.mark.parametrize("head", [True, False], ids=["head trains", "head frozen"])
@pytest.mark.parametrize("states", [True, False], ids=["states need it", "states do not"])
def test_the_fused_head_counts_what_it_multiplies(head, states):
    layer = nn.Linear(6, 11, bias=False).requires_grad_(head)
    h, labels = torch.randn(5, 6, requires_grad=states), torch.arange(5)
    with counting() as counted:
        value = head_log_probs(h, layer, labels, chunk=2)
        if value.requires_grad:
            value.sum().backward()
    # a frozen head's gradient is made in the forward; a trained one's logits are made again, then two products
    times = 1 + (2 + states if head else states)
    assert counted.total == times * 2 * 5 * 6 * 11


def test_low_rank_deltas_add_what_they_multiply():
    plain, two = (Run({"lora": LoRA(rank=r)}, steps=1).train().flops for r in (1, 2))
    eight = Run({"lora": LoRA(rank=8)}, steps=1).train().flops
    assert eight - two == pytest.approx(6 * (two - plain)) and two > plain > 0


class Twice(Method):
    """Takes the gradient of each step twice."""

    def step(self, inner):
        inner.gradients()
        inner.gradients()


class Asks(Method):
    """Asks the base for its log-probabilities."""

    def needs(self):
        return (ReferenceLogProbs(),)

    def objective(self, outputs, needs):
        return Loss(-outputs.log_probs() + 0.0 * needs.reference_log_probs)


def test_what_a_method_runs_besides_is_counted():
    once = Run({"lora": LoRA(rank=2)}, steps=2).train().flops
    assert Run({"lora": LoRA(rank=2), "twice": Twice()}, steps=2).train().flops == 2 * once
    # a frozen base beside: a forward is a little more than a third of a step that trains adapters
    more = Run({"lora": LoRA(rank=2), "asks": Asks()}, steps=2).train().flops / once
    assert 1.3 < more < 1.6


def test_counters_nest_and_hear_nothing_outside():
    layer = nn.Linear(3, 4)
    with counting() as outer:
        layer(torch.ones(2, 3))
        with counting() as inner:
            layer(torch.ones(2, 3))
    layer(torch.ones(2, 3))
    assert (outer.total, inner.total) == (2 * 2 * 2 * 12, 2 * 2 * 12)


def test_experts_count_those_that_are_routed_to():
    from transformers import MixtralConfig, MixtralForCausalLM

    def forward(used):
        config = MixtralConfig(
            vocab_size=64,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            num_local_experts=4,
            num_experts_per_tok=used,
            sliding_window=None,
        )
        with counting() as counted, torch.no_grad():
            tiny._make(MixtralForCausalLM, config, 0)(torch.full((1, 8), 9))
        return counted.total

    assert forward(4) - forward(1) == 2 * 8 * 3 * 3 * 16 * 32
