"""Blocks and sites are found by structure, on small models of five families."""

from __future__ import annotations

import pytest
import torch

from tests import tiny
from tunewright.errors import MethodError, ModelError
from tunewright.models.sites import Structure, discover, parameters_by_role

# family -> (stack, sites a block by role: attention linears, mlp linears, norms)
EXPECTED = {
    "llama": ("model.layers", 4, 3, 2),
    "qwen3": ("model.layers", 4, 3, 4),
    "gpt2": ("transformer.h", 2, 2, 2),
    "bert": ("bert.encoder.layer", 4, 2, 2),
    "bert_classifier": ("bert.encoder.layer", 4, 2, 2),
    "vit": ("vit.layers", 4, 2, 2),
}


def roles(structure: Structure, block: int) -> dict[str, int]:
    counts: dict[str, int] = {}
    for site in structure.blocks[block].sites:
        counts[site.role] = counts.get(site.role, 0) + 1
    return counts


@pytest.mark.parametrize("family", EXPECTED)
def test_blocks_and_roles(family):
    model = tiny.MAKERS[family](layers=3)
    structure = discover(model)
    stack, attention, mlp, norms = EXPECTED[family]
    assert [b.name for b in structure.blocks] == [f"{stack}.{i}" for i in range(3)]
    assert [(b.index, b.depth, b.stack_length) for b in structure.blocks] == [(0, 0, 3), (1, 1, 3), (2, 2, 3)]
    for block in range(3):
        assert roles(structure, block) == {"attention": attention, "mlp": mlp, "norm": norms}


@pytest.mark.parametrize("family", EXPECTED)
def test_every_linear_of_a_block_is_a_site_and_nothing_else_is(family):
    model = tiny.MAKERS[family]()
    structure = discover(model)
    wide = {
        n.removesuffix(".weight")
        for n, p in model.named_parameters()
        if p.dim() == 2 and n.startswith(structure.blocks[0].stack)
    }
    assert {s.name for s in structure.linear_sites()} == wide
    assert len(wide) == len(structure.match("all-linear"))


@pytest.mark.parametrize("family", EXPECTED)
def test_blocks_own_exactly_the_parameters_under_them(family):
    model = tiny.MAKERS[family]()
    structure = discover(model)
    for block in structure.blocks:
        under = {n for n, _ in model.named_parameters() if n.startswith(block.name + ".")}
        assert set(block.parameter_names) == under
        assert all(structure.block_of(n) is block for n in under)
    outside = [n for n, _ in model.named_parameters() if structure.block_of(n) is None]
    assert outside and not any(n.startswith(structure.blocks[0].stack + ".") for n in outside)


@pytest.mark.parametrize("family", EXPECTED)
def test_matrix_is_out_by_in_and_goes_back(family):
    structure = discover(tiny.MAKERS[family]())
    for site in structure.linear_sites():
        matrix = site.matrix()
        x = torch.randn(3, site.in_features)
        bias = site.module.bias if site.module.bias is not None else 0
        assert torch.allclose(site.module(x), x @ matrix.t() + bias, atol=1e-5)
        assert torch.equal(site.to_stored(matrix), site.weight)


def test_gpt2_linears_are_conv1d_and_vit_has_a_convolution():
    assert {s.kind for s in discover(tiny.gpt2()).linear_sites()} == {"conv1d"}
    conv = [s for s in discover(tiny.vit()).sites if s.kind == "conv"]
    assert len(conv) == 1 and conv[0].block is None
    assert conv[0].matrix().shape == (32, 3 * 4 * 4)
    assert torch.equal(conv[0].to_stored(conv[0].matrix()), conv[0].weight)


def test_tied_head_is_one_site_under_the_embedding_name():
    structure = discover(tiny.llama(tied=True))
    assert structure.tied == {"lm_head.weight": "model.embed_tokens.weight"}
    names = [s.name for s in structure.sites]
    assert "model.embed_tokens" in names and "lm_head" not in names
    untied = discover(tiny.llama(tied=False))
    assert untied.tied == {}
    assert untied.site("lm_head").role == "head"


def test_heads_and_embeddings_outside_blocks():
    by_role = {s.name: s.role for s in discover(tiny.bert_classifier()).sites if s.block is None}
    assert by_role["classifier"] == "head"
    assert by_role["bert.embeddings.word_embeddings"] == "embedding"
    assert by_role["bert.embeddings.LayerNorm"] == "norm"
    assert {s.name: s.role for s in discover(tiny.vit()).sites}["classifier"] == "head"


def test_depth_fraction_runs_from_zero_to_one():
    structure = discover(tiny.qwen3(layers=3))
    depths = [structure.depth_fraction(f"model.layers.{i}.mlp.up_proj.weight") for i in range(3)]
    assert depths == [0.0, 0.5, 1.0]
    assert structure.depth_fraction("lm_head.weight") is None
    assert discover(tiny.llama(layers=1)).depth_fraction("model.layers.0.mlp.up_proj.weight") == 0


def test_more_than_ten_blocks_do_not_swallow_each_other():
    structure = discover(tiny.llama(layers=11))
    assert len(structure.blocks) == 11
    assert len({len(b.sites) for b in structure.blocks}) == 1
    assert structure.block_of("model.layers.10.mlp.up_proj.weight").index == 10
    assert structure.site("model.layers.10.mlp.up_proj").block == 10


def test_targets_match_by_ending_and_errors_name_the_nearest():
    structure = discover(tiny.llama())
    assert [s.name for s in structure.match(["q_proj", "v_proj"])] == [
        f"model.layers.{i}.self_attn.{p}_proj" for i in range(2) for p in "qv"
    ]
    assert [s.name for s in structure.match("model.layers.1.mlp.up_proj")] == ["model.layers.1.mlp.up_proj"]
    with pytest.raises(MethodError, match="q_proj"):
        structure.match(["q_pro"])
    with pytest.raises(MethodError, match="the list is empty"):
        structure.match([])
    with pytest.raises(MethodError) as refused:
        structure.match("lm_head")  # a name that is like none: what can be taken is said
    assert "embed_tokens" not in refused.value.remedy and "down_proj" in refused.value.remedy
    with pytest.raises(ModelError, match="up_proj"):
        structure.site("model.layers.0.mlp.upproj")


def test_a_model_without_blocks_is_refused():
    with pytest.raises(ModelError, match="no stack of layers"):
        discover(torch.nn.Sequential(torch.nn.Linear(4, 4)))


@pytest.mark.parametrize("family", EXPECTED)
def test_rooms_count_every_parameter_once(family):
    model = tiny.MAKERS[family]()
    roles = parameters_by_role(discover(model), dict(model.named_parameters()))
    assert sum(roles.values()) == sum(p.numel() for p in model.parameters())
    assert roles["attention"] and roles["mlp"]


def test_parts_with_configs_of_their_own_say_their_own_heads_and_widths():
    from transformers import CLIPConfig, CLIPModel

    from tunewright.pieces.sublayers import check_parts, parts_of

    one = {"num_hidden_layers": 1, "intermediate_size": 48, "projection_dim": 8}
    text = {**one, "hidden_size": 32, "num_attention_heads": 4, "vocab_size": 40}
    vision = {**one, "hidden_size": 24, "num_attention_heads": 2, "image_size": 8, "patch_size": 4}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    structure = discover(model)
    assert {s.name.split("_")[0]: (s.heads, s.out_features) for s in structure.head_outputs()} == {
        "text": (4, 32),
        "vision": (2, 24),
    }
    assert {s.name.split("_")[0]: s.size for s in structure.whole} == {"text": 32, "vision": 24}
    check_parts(parts_of(model, structure), "any", attention=True, mlp=True)
