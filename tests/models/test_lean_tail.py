"""The last MLP at few positions: hidden states there and all gradients are the whole forward's."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests import loop, tiny
from tunewright.contract.batch import Row
from tunewright.models.adapted import Adapted
from tunewright.models.attention import prepare_attention
from tunewright.models.lean_tail import only_at, tail
from tunewright.models.sites import discover
from tunewright.tasks import get_task


def made(packed: bool, seed: int = 0):
    g = torch.Generator().manual_seed(seed)
    rows = [
        Row(str(n), "x", torch.randint(8, tiny.VOCABULARY, (n,), generator=g).tolist(), [0.0] * (n - 3) + [1.0] * 3)
        for n in (9, 20, 14)
    ]
    return get_task("text-generation").collate(rows, packed)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2"])
def test_loss_and_every_gradient_equal_the_whole_forwards(name, packed):
    model, task, batch = tiny.MAKERS[name](), get_task("text-generation"), made(packed)
    if packed:
        assert prepare_attention(model)
    module = tail(discover(model), model)
    assert module is not None
    found = []
    for at in (None, batch.positions):
        model.zero_grad()
        with only_at(module, at, batch.inputs["input_ids"].numel()):
            outputs = task.forward(model, batch)
        value = task.loss(outputs, batch).value.mean()
        value.backward()
        found.append(
            (float(value.detach()), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
        )
    (a, before), (b, after) = found
    assert abs(a - b) <= 1e-6 * abs(a)
    assert before.keys() == after.keys()
    for n, g in before.items():
        assert (g - after[n]).norm() <= 1e-5 * g.norm(), n


def test_only_the_positions_are_computed_and_nothing_stays_on_the_model():
    model, batch = tiny.llama(), made(False)
    module = tail(discover(model), model)
    seen: list[int] = []
    original = module.gate_proj.forward
    module.gate_proj.forward = lambda x: seen.append(x.shape[:-1].numel()) or original(x)
    with only_at(module, batch.positions, batch.inputs["input_ids"].numel()):
        get_task("text-generation").forward(model, batch)
    get_task("text-generation").forward(model, batch)
    # the first forward tries the head out on 16 tokens
    assert seen == [16, 16, len(batch.positions), 60]
    assert batch.inputs["input_ids"].numel() == 60
    assert not module._forward_hooks and not module._forward_pre_hooks


def test_a_position_that_is_read_twice_has_its_gradient_once():
    model = tiny.llama()
    module = tail(discover(model), model)
    ids = torch.arange(8, 20)[None]
    body = model.model
    grads = []
    for on in (False, True):
        model.zero_grad()
        with only_at(module if on else None, torch.tensor([3, 3, 7]), 12):
            states = body(input_ids=ids).last_hidden_state[0]
        (states[[3, 3, 7]] * torch.linspace(-1, 2, states.shape[-1])).sum().backward()
        grads.append(module.down_proj.weight.grad.clone())
    assert (grads[0] - grads[1]).norm() <= 1e-5 * grads[0].norm()


def test_a_watched_module_is_run_whole():
    model, batch = tiny.llama(), made(False)
    module = tail(discover(model), model)
    rows: list[int] = []
    hook = module.up_proj.register_forward_hook(lambda m, a, out: rows.append(out.shape[:-1].numel()))
    with only_at(module, batch.positions, batch.inputs["input_ids"].numel()):
        get_task("text-generation").forward(model, batch)
    hook.remove()
    assert rows[-1] == 60


def test_a_module_that_mixes_positions_is_no_tail():
    model = tiny.llama()

    class Mixing(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.up_proj = inner.up_proj
            self.down_proj = inner.down_proj

        def forward(self, x):
            return self.down_proj(self.up_proj(x - x.mean(1, keepdim=True)))

    model.model.layers[-1].mlp = Mixing(model.model.layers[-1].mlp)
    assert tail(discover(model), model) is None


def test_two_stacks_have_no_tail():
    model = tiny.llama()
    structure = discover(model)
    other = nn.Module()
    other.a, other.b = model.model.layers, nn.ModuleList([nn.Sequential(nn.Linear(4, 4))])
    assert tail(structure, model) is not None
    assert tail(discover(other), other) is None


def test_the_loop_uses_it_and_trains_to_the_same_weights(monkeypatch):
    from tunewright.methods.adapters.lora import LoRA
    from tunewright.training import train

    used = []

    def note(module, positions, tokens):
        used.append(module is not None)
        return only_at(module, positions, tokens)

    monkeypatch.setattr(train, "only_at", note)
    with_it, _ = loop.run(LoRA(rank=2), steps=3)
    monkeypatch.setattr(train, "tail", lambda *a: None)
    without, _ = loop.run(LoRA(rank=2), steps=3)
    assert used[:3] == [True] * 3 and used[3:] == [False] * 3
    assert loop.largest_difference(loop.values(with_it), loop.values(without)) < 1e-4
    assert isinstance(with_it.adapted, Adapted)
