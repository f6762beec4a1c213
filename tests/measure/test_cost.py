from __future__ import annotations

import json
import time

import pytest

from tests import tiny
from tunewright.machine import host
from tunewright.measure.cost import Cost, flops, multiplying_parameters


def test_nested_seconds_are_counted_once_and_failures_too():
    cost = Cost()
    with pytest.raises(KeyError), cost.phase("train"):
        with cost.phase("statistics"):
            time.sleep(0.05)
        raise KeyError
    assert 0.05 <= cost.phases["statistics"].seconds < 0.2 and cost.phases["train"].seconds < 0.04
    assert cost.total.seconds == pytest.approx(cost.phases["statistics"].seconds + cost.phases["train"].seconds)
    assert cost.peak_memory > 50e6 and cost.peak_memory <= host.peak_memory() and cost.load_at_start is not None


def test_a_tied_head_counts_and_a_look_up_does_not():
    tied, untied = tiny.llama(tied=True), tiny.llama(tied=False)
    blocks = sum(p.numel() for n, p in tied.named_parameters() if p.dim() == 2 and "layers" in n)
    assert multiplying_parameters(tied) == multiplying_parameters(untied) == blocks + tiny.VOCABULARY * 32
    gpt2 = tiny.gpt2()
    blocks = sum(p.numel() for n, p in gpt2.named_parameters() if p.dim() == 2 and ".h." in n)
    assert multiplying_parameters(gpt2) == blocks + tiny.VOCABULARY * 32


def test_the_rule_agrees_with_counted_flops():
    """torch's own counter on a forward of one long batch, short of attention's products."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    model, ids = tiny.llama(layers=2), torch.full((1, 8), 9)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(ids)
    assert flops(multiplying_parameters(model), 8) == pytest.approx(counter.get_total_flops(), rel=0.1)
    assert flops(10, 3, "all") == 180 and flops(10, 3, "adapters") == 120


def test_active_experts_only():
    from transformers import MixtralConfig, MixtralForCausalLM

    def make(used):
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
        return multiplying_parameters(tiny._make(MixtralForCausalLM, config, 0))

    assert make(4) - make(1) == 3 * 3 * 16 * 32


def test_what_was_spent_before_an_interruption_counts():
    first = Cost()
    first.add("train", tokens=100, parameters=10, gradients="all")
    first.phases["train"].seconds = 5.0
    state = json.loads(json.dumps(first.state()))
    again = Cost()
    again.add("train", tokens=20, parameters=10, gradients="all")
    again.restore(state)
    assert (again.total.tokens, again.total.flops, again.total.seconds) == (
        120,
        7200.0,
        5.0,
    ) and again.peak_memory >= first.peak_memory
