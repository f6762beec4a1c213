"""Linear layers that no change can hang on are found by what they do, left out by name, and refused as targets."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tests import architectures, tiny
from tunewright.errors import MethodError
from tunewright.methods.adapters.lora import LoRA
from tunewright.models import probing
from tunewright.models.adapted import Adapted
from tunewright.models.deltas import LowRank, attach
from tunewright.models.lowrank import low_rank, low_rank_plain
from tunewright.models.sites import SHARED, discover


class Router(nn.Linear):
    def forward(self, x):
        y = super().forward(x)
        return y, y.argmax(-1)


def kernel(weight, x):
    return nn.functional.linear(x, weight)


class Block(nn.Module):
    """A layer with one linear of each bad kind, and two good ones."""

    def __init__(self):
        super().__init__()
        names = ("good", "unused", "around", "masked")
        self.good, self.unused, self.around, self.masked = (nn.Linear(8, 8) for _ in names)
        self.made = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
        self.shared, self.copy = nn.Linear(8, 8), nn.Linear(8, 8)
        self.copy.weight = self.shared.weight
        self.router, self.norm = Router(8, 8), nn.LayerNorm(8)
        self.masked.forward = lambda x, mask: nn.Linear.forward(self.masked, x) * mask
        self.experts = nn.ModuleDict({str(i): nn.Linear(8, 8) for i in range(2)})

    def forward(self, x):
        if isinstance(self.good.weight, torch.Tensor):
            x = self.good(x).to(self.good.weight.dtype)
        x = x + self.around(x) + kernel(self.around.weight, x)
        x = self.masked(x, torch.ones(8)) + self.router(x)[0] + self.made(x) + self.shared(x) + self.copy(x)
        return self.norm(self.experts["0"](x))


class Model(nn.Module):
    main_input_name = "input_ids"

    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(vocab_size=8, pad_token_id=0)
        self.embed, self.layers = nn.Embedding(8, 8), nn.ModuleList(Block() for _ in range(2))

    def forward(self, input_ids):
        x = self.embed(input_ids)
        for layer in self.layers:
            x = layer(x)
        return x


def test_each_kind_is_found_once_run_and_named():
    model = Model()
    model.layers[0].train(), model.layers[1].eval()
    structure = discover(model)
    assert model.layers[0].training and not model.layers[1].training and not model.layers[0].good._forward_hooks
    why = {s.name.removeprefix("layers.0."): s.unfit for s in structure.sites if s.name.startswith("layers.0.")}
    assert not (why["good"] or why["norm"] or why["experts.0"] or why["experts.1"])
    assert why["unused"] == probing.UNUSED and why["around"] == probing.AROUND
    assert "tuple" in why["router"] and "more than one tensor" in why["masked"] and why["made"] == probing.MADE
    assert why["shared"] == SHARED
    assert {s.name.split(".", 2)[2] for s in structure.linear_sites()} == {"good", "experts.0", "experts.1"}
    said = "\n".join(structure.left_out())
    assert len(structure.left_out()) == 6
    assert all(f"layers.*.{n} (" in said for n in ("unused", "around", "router", "masked", "made", "shared"))


def test_an_explicit_target_that_is_none_is_refused_with_the_reason():
    site = discover(Model()).site("layers.0.router")
    with pytest.raises(MethodError, match=r"layers.0.router': it gives a tuple"):
        attach(site, "a", LowRank(torch.zeros(2, 8), torch.zeros(8, 2), 1.0))


def test_a_model_is_run_once_and_not_where_its_inputs_are_unknown(monkeypatch):
    model, calls = Model(), []
    forward = model.forward
    model.forward = lambda **given: calls.append(1) or forward(**given)  # type: ignore[method-assign]
    first = discover(model)
    assert discover(model) == first and calls == [1]
    other = Model()
    other.main_input_name = "features"
    known = {"", probing.AROUND, probing.MADE, SHARED}
    assert {s.unfit for s in discover(other).sites} == known
    broken = Model()
    broken.forward = lambda input_ids: 1 / 0  # type: ignore[method-assign]
    assert {s.unfit for s in discover(broken).sites} == known


EXPECTED = {
    "mamba": {"out_proj", "dt_proj", "x_proj"},
    "falcon_mamba": {"out_proj", "dt_proj", "x_proj"},
    "mamba2": {"out_proj"},
    "falcon_h1": {"out_proj"},
    "nemotron_h": {"out_proj"},
    "llama4_text": {"router"},
    "phimoe": {"router"},
    "bart": {"encoder_attn.k_proj", "encoder_attn.v_proj", "encoder_attn.q_proj", "encoder_attn.out_proj"},
    "llama": set(),
    "gpt2": set(),
    "t5": set(),
    "mixtral": set(),
    "jamba": {"dt_proj"},
    "bloom": set(),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_the_families_linears_that_are_none(name):
    model = architectures.make(name, "text-generation" if name != "t5" else "text-classification")
    unfit = [s for s in discover(model).sites if s.unfit]
    assert {n for n in EXPECTED[name] if any(s.name.endswith("." + n) for s in unfit)} == EXPECTED[name]
    assert all(any(s.name.endswith("." + n) for n in EXPECTED[name]) for s in unfit)


def test_no_layer_that_peft_refuses_is_a_target():
    from peft.tuners.tuners_utils import _check_lora_target_modules_mamba

    config = SimpleNamespace(peft_type="LORA")
    for name in ("mamba", "mamba2", "falcon_mamba", "falcon_h1", "nemotron_h"):
        model = architectures.make(name, "text-generation")
        for site in discover(model).linear_sites():
            _check_lora_target_modules_mamba(config, model, site.name.rpartition(".")[2])


def test_stacked_experts_are_said_to_be_left_out():
    adapted = Adapted(architectures.make("qwen3_moe", "text-generation"))
    assert len(adapted.structure.stacked) == 4
    (said,) = adapted.structure.left_out()
    assert (
        "mlp.experts.gate_up_proj, model.layers.*.mlp.experts.down_proj (matrices stacked in one tensor, as experts"
        in said
    )
    assert discover(tiny.llama()).left_out() == [] and LoRA().target_modules == "all-linear"


@pytest.mark.parametrize("name", ["jamba", "nemotron_h", "falcon_h1", "zamba2", "granitemoehybrid", "lfm2", "bamba"])
def test_hybrids_have_one_block_a_layer(name):
    model = architectures.make(name, "text-generation")
    structure = discover(model)
    assert len(structure.blocks) == model.config.num_hidden_layers and structure.linear_sites()
    assert len({b.stack for b in structure.blocks}) == 1


@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
@pytest.mark.parametrize("transposed", [False, True])
def test_an_output_may_be_changed_in_place_afterwards(lead, transposed):
    g = torch.Generator().manual_seed(0)
    x, w, A, B = (torch.randn(*s, generator=g) for s in ((*lead, 5), (5, 4) if transposed else (4, 5), (2, 5), (4, 2)))
    found = []
    for product in (low_rank, low_rank_plain):
        leaves = [t.clone().requires_grad_() for t in (x, A, B)]
        y = product(leaves[0], w, None, leaves[1], leaves[2], 0.5, transposed)
        y /= 3.0
        y += 1.0
        y.square().sum().backward()
        found.append([leaf.grad for leaf in leaves])
    for ours, plain in zip(*found, strict=True):
        assert torch.allclose(ours, plain, rtol=1e-5)


@pytest.mark.parametrize("name", ["longformer", "deberta", "swinv2"])
def test_models_that_change_a_projections_output_in_place_train(name):
    task = "image-classification" if name == "swinv2" else "text-classification"
    model = architectures.make(name, task)
    inputs = probing.small_inputs(model)
    wanted = copy.deepcopy(model)
    adapted = Adapted(model)
    for site in adapted.structure.linear_sites():
        attach(site, "a", LowRank(torch.zeros(2, site.in_features), torch.zeros(site.out_features, 2), 1.0))
    model.eval()
    out = model(**inputs).logits
    assert torch.allclose(out, wanted.eval()(**inputs).logits, atol=1e-5)
    out.sum().backward()
