"""Changes that are more than one of a weight: against plain loops, folded, dialled, written and read back."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from tests import tiny
from tests.methods.driving import Run, logits, text_rows
from tunewright.contract.method import Method
from tunewright.errors import MethodError, ModelError
from tunewright.loading.new_biases import make_room
from tunewright.models import context, delta_format
from tunewright.models import deltas as forms
from tunewright.models.adapted import Adapted
from tunewright.models.nf4 import quantise_sites
from tunewright.tasks import get_task
from tunewright.training import carry
from tunewright.training.inner import TrainedWeight

TASK = get_task("text-generation")


def draw(*shape: int, seed: int = 0, std: float = 0.3) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * std


def heads_edited(model: nn.Module, heads=(1, 3), scaled: bool = True, beside: bool = True) -> Adapted:
    """Two heads of each attention scaled and shifted, with a low-rank change and a bias on the same layer."""
    adapted = Adapted(model)
    for i, site in enumerate(adapted.structure.head_outputs()):
        places = torch.cat([site.head_places(h) for h in heads])
        scale = draw(len(places), seed=10 + i) if scaled else None
        forms.attach(site, "heads", forms.InputEdit(places, draw(len(places), seed=i), scale))
        if beside:
            A, B = draw(2, site.in_features, seed=20 + i), draw(site.out_features, 2, seed=30 + i)
            forms.attach(site, "low", forms.LowRank(A, B, 0.7))
            forms.attach(site, "bias", forms.Bias(draw(site.out_features, seed=40 + i)))
    adapted.model.eval()
    return adapted


def by_hand(adapted: Adapted, fresh: nn.Module, strength: float = 1.0) -> torch.Tensor:
    """The same by hooks on an untouched model: head by head, then the layer's product, its low-rank part, its bias."""
    for name, here in adapted.deltas().items():
        layer, edit = fresh.get_submodule(name), here["heads"]
        width = layer.weight.shape[-1] if isinstance(layer, nn.Linear) else layer.weight.shape[0]
        size = width // 4

        def before(_, args, edit=edit, size=size):
            x = args[0].clone()
            for k, head in enumerate((1, 3)):
                part = slice(k * size, (k + 1) * size)
                z = x[..., head * size : (head + 1) * size]
                scale = 1.0 if edit.scale is None else 1.0 + strength * edit.scale[part]
                x[..., head * size : (head + 1) * size] = z * scale + strength * edit.shift[part]
            return (x,)

        def after(_, args, y, here=here):
            if "low" in here:
                y = y + strength * 0.7 * (args[0] @ here["low"].lora_A.T @ here["low"].lora_B.T)
                y = y + strength * here["bias"].values
            return y

        layer.register_forward_pre_hook(before)
        layer.register_forward_hook(after)
    return logits(fresh)


@pytest.mark.parametrize("make", [tiny.llama, tiny.gpt2, tiny.qwen3], ids=["llama", "gpt2", "qwen3"])
def test_heads_outputs_are_edited_before_all_that_reads_them_and_fold(make):
    adapted = heads_edited(make())
    tuned = logits(adapted.model)
    torch.testing.assert_close(tuned, by_hand(adapted, make()), atol=1e-5, rtol=1e-5)
    base = logits(make())
    for strength in (0.0, 0.4, 1.0):
        with adapted.at_strength(strength) as model:
            expected = by_hand(adapted, make(), strength)
            torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=1e-5)
    with adapted.base() as model:
        assert torch.equal(logits(model), base)
    assert torch.equal(logits(adapted.model), tuned)
    adapted.fold()
    assert not adapted.deltas()
    torch.testing.assert_close(logits(adapted.model), tuned, atol=1e-5, rtol=1e-5)
    with adapted.base() as model:
        assert torch.equal(logits(model), base) and {*model.state_dict()} == {*make().state_dict()}
    adapted.forget_changes()
    assert torch.equal(logits(adapted.model), base) and {*adapted.model.state_dict()} == {*make().state_dict()}


def test_a_bias_that_the_base_has_not_is_written_and_read_back(tmp_path: Path):
    adapted = heads_edited(tiny.llama())
    adapted.base_hash = "tiny"
    adapted.fold()
    tuned, names = logits(adapted.model), sorted(adapted.added)
    assert names and all(n.endswith("o_proj.bias") for n in names)
    carry.save_stage(tmp_path / "stage", adapted, {})
    delta_format.save_delta(adapted, tmp_path / "delta", "tiny")
    for read in (
        lambda a: carry.load_stage(tmp_path / "stage", a),
        lambda a: delta_format.load_delta(a, tmp_path / "delta"),
    ):
        again = Adapted(tiny.llama(), base_hash="tiny")
        read(again)
        assert torch.equal(logits(again.model), tuned) and sorted(again.added) == names
        with again.at_strength(0.5) as half:
            assert not torch.equal(logits(half), tuned)
        with again.base() as base:
            assert torch.equal(logits(base), logits(tiny.llama()))


def test_an_edit_stays_beside_what_does_not_fold():
    class Wiggle(forms.Delta):
        form, foldable = "wiggle", False

        def forward(self, x, y):
            return y + self.strength * torch.sin(x) @ torch.ones(x.shape[-1], y.shape[-1])

    adapted = heads_edited(tiny.llama())
    for site in adapted.structure.head_outputs():
        forms.attach(site, "wiggle", Wiggle())
    tuned = logits(adapted.model)
    with adapted.at_strength(1.0) as model:
        torch.testing.assert_close(logits(model), tuned, atol=1e-5, rtol=1e-5)
    with adapted.base() as model:
        assert torch.equal(logits(model), logits(tiny.llama()))
    adapted.fold()
    assert {n for by in adapted.deltas().values() for n in by} == {"heads", "wiggle"}
    torch.testing.assert_close(logits(adapted.model), tuned, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_layers_in_4_bits_take_edits_and_biases(strength):
    adapted = Adapted(tiny.llama())
    quantise_sites(adapted.model, adapted.structure.head_outputs(), False)
    adapted.rediscover()
    adapted.model.eval()
    base = logits(tiny.llama())
    for i, site in enumerate(adapted.structure.head_outputs()):
        places = site.head_places(2)
        forms.attach(site, "heads", forms.InputEdit(places, draw(len(places), seed=i)))
    tuned = logits(adapted.model)
    with adapted.at_strength(strength) as model:
        gap = float((logits(model) - tuned).abs().max())
        assert gap < 1e-5 if strength == 1.0 else gap > 1e-2
    with adapted.base() as model:
        assert torch.equal(logits(model), base)
    adapted.fold()
    torch.testing.assert_close(logits(adapted.model), tuned, atol=1e-5, rtol=1e-5)


def make_edit(size: int, groups: int = 1, first: int = 2, last: int = 2, seed: int = 0) -> forms.PositionEdit:
    rotation = draw(groups, 3, size, seed=seed)  # not orthonormal: the form makes it so
    return forms.PositionEdit(
        rotation, draw(groups, 3, size, seed=seed + 1), draw(groups, 3, seed=seed + 2), first=first, last=last
    )


@pytest.mark.parametrize("groups", [1, 2])
def test_a_position_edit_is_the_papers_formula_token_by_token(groups):
    edit = make_edit(8, groups)
    prompts, lengths = [0, 1, 3, 5, 6], [3, 2, 4, 6, 6]
    place = torch.full((5, 6), -1)
    for i, n in enumerate(lengths):
        place[i, :n] = torch.arange(n)
    h = draw(5, 6, 8, seed=5)
    rows = context.Rows(torch.tensor(prompts))
    with context.reading(context.Present(rows, torch.arange(5)[:, None].expand(5, 6), place)), torch.no_grad():
        edit.strength = 0.8
        out = edit(torch.zeros_like(h), h)
    for i, p in enumerate(prompts):
        half = p // 2
        for t in range(6):
            first, last = t < min(2, half), p - min(2, half) <= t < p
            expected = h[i, t]
            if first or last:
                g = 0 if first or groups == 1 else 1
                # orthonormal rows that span what the free matrix spans, by another way: the polar factor is rotated
                R = edit.rotations()[g]
                torch.testing.assert_close(R @ R.T, torch.eye(3), atol=1e-5, rtol=0)
                raw = edit.rotation[g].detach()
                torch.testing.assert_close(raw @ R.T @ R, raw, atol=1e-5, rtol=1e-4)
                low = edit.source[g] @ h[i, t] + edit.bias_of[g] - R @ h[i, t]
                expected = h[i, t] + 0.8 * R.T @ low
            torch.testing.assert_close(out[i, t], expected.detach(), atol=1e-5, rtol=1e-5)


def test_rows_that_are_orthonormal_already_stay():
    q = torch.linalg.qr(draw(8, 3, seed=3)).Q.T[None].contiguous()
    torch.testing.assert_close(forms.PositionEdit(q, q, q[..., 0], first=1, last=1).rotations(), q)


def test_a_block_takes_no_weights_form_and_a_layer_no_blocks():
    adapted = Adapted(tiny.llama())
    block, layer = adapted.structure.whole[0], adapted.structure.linear_sites()[0]
    with pytest.raises(MethodError, match="which is a block"):
        forms.attach(block, "x", forms.LowRank(torch.zeros(2, 4), torch.zeros(4, 2), 1.0))
    with pytest.raises(MethodError, match="target sites of kind block"):
        forms.attach(layer, "x", make_edit(layer.out_features))
    with pytest.raises(MethodError, match="no weight of its own"):
        block.weight  # noqa: B018
    with pytest.raises(MethodError, match="does not enter"):
        layer.head_places(0)


def test_hidden_states_of_a_block_are_the_edited_ones():
    adapted = Adapted(tiny.llama())
    rows = text_rows(3, prompt=4)
    batch = TASK.collate(rows, False)
    with torch.no_grad():
        before = TASK.forward(adapted.model, batch, hidden=True).hidden[1]
        site = adapted.structure.whole[0]
        forms.attach(site, "edit", make_edit(site.size, first=1, last=0))
        after = TASK.forward(adapted.model, batch, hidden=True).hidden[1]
    moved = (before - after).abs().amax(-1) > 1e-6
    assert moved[:, 0].all() and not moved[:, 1:].any()


def test_a_penalty_is_told_of_heads_of_a_bias_and_of_what_folds_nowhere():
    adapted = heads_edited(tiny.llama())
    site = adapted.structure.head_outputs()[0]
    here = forms.deltas_of(site)
    for d in here.values():
        d.requires_grad_(True)
    weight = TrainedWeight(site, here, None)
    whole = torch.zeros(site.in_features)
    whole[here["heads"].places] = here["heads"].scale.detach()
    W = site.matrix() + here["low"].change()
    torch.testing.assert_close(weight.change(), W * (1 + whole) - site.matrix())
    shift = torch.zeros(site.in_features)
    shift[here["heads"].places] = here["heads"].shift.detach()
    torch.testing.assert_close(weight.bias_change(), W @ shift + here["bias"].values, atol=1e-5, rtol=1e-5)
    weight.bias_change().sum().backward()
    assert here["heads"].shift.grad is not None
    assert {"heads.scale", "heads.shift", "low.lora_A", "low.lora_B", "bias.values"} == set(weight.parameters)
    block = adapted.structure.whole[0]
    edit = make_edit(block.size)
    blocks = TrainedWeight(block, {"edit": edit}, None)
    assert not blocks.foldable and set(blocks.parameters) == {"edit.rotation", "edit.source", "edit.bias_of"}
    with pytest.raises(MethodError, match="position-edit"):
        blocks.change()


def test_a_penalty_trains_what_does_not_fold():
    from tunewright.methods.adapters.loreft import LoReFT

    class Small(Method):
        def penalty(self, weights):
            return 100.0 * sum(w.parameters["loreft.source"].pow(2).sum() for w in weights.values())

    norms = []
    for beside in ({}, {"small": Small()}):
        run = Run({"loreft": LoReFT(rank=2), **beside}, steps=6)
        run.train()
        norms.append(
            sum(float(p.detach().pow(2).sum()) for n, p in run.adapted.delta_parameters().items() if "source" in n)
        )
    assert norms[1] < 0.9 * norms[0]


def test_an_architecture_without_a_switch_for_biases_is_refused():
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    llama = LlamaForCausalLM(LlamaConfig(vocab_size=31, **small))
    name = "model.layers.0.self_attn.o_proj.bias"
    llama.get_submodule(name[:-5]).bias = nn.Parameter(torch.ones(16))
    zeros = make_room(llama, [name])
    assert sorted(n.split(".")[-2] for n in zeros) == ["k_proj", "q_proj", "v_proj"]
    assert llama.config.attention_bias and not any(llama.get_parameter(n).any() for n in zeros)
    qwen = Qwen2ForCausalLM(Qwen2Config(vocab_size=31, num_key_value_heads=4, **small))
    with pytest.raises(ModelError, match="has no place for"):
        make_room(qwen, [name])
    assert make_room(SimpleNamespace(), []) == []
