"""Parts of blocks: where they begin and end in the architectures that there are, and which are refused by name."""

from __future__ import annotations

import pytest

from tests import architectures, tiny
from tunewright.errors import MethodError
from tunewright.models.sites import discover
from tunewright.pieces.sublayers import Part, check_parts, parts_of

# architecture: (task, attention's first and last, feed-forward's first and last, norms before both or behind both)
KNOWN = {
    "llama": (
        "text-generation",
        ("self_attn.q_proj", "self_attn.o_proj"),
        ("mlp.gate_proj", "mlp.down_proj"),
        ("input_layernorm", "post_attention_layernorm"),
        "before",
    ),
    "gpt2": ("text-generation", ("attn.c_attn", "attn.c_proj"), ("mlp.c_fc", "mlp.c_proj"), ("ln_1", "ln_2"), "before"),
    "gpt_neox": (
        "text-generation",
        ("attention.query_key_value", "attention.dense"),
        ("mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
        ("input_layernorm", "post_attention_layernorm"),
        "before",
    ),
    "gemma2": (
        "text-generation",
        ("self_attn.q_proj", "self_attn.o_proj"),
        ("mlp.gate_proj", "mlp.down_proj"),
        ("input_layernorm", "pre_feedforward_layernorm"),
        "before",
    ),
    "bert": (
        "fill-mask",
        ("attention.self.query", "attention.output.dense"),
        ("intermediate.dense", "output.dense"),
        ("attention.output.LayerNorm", "output.LayerNorm"),
        "behind",
    ),
    "distilbert": (
        "fill-mask",
        ("attention.q_lin", "attention.out_lin"),
        ("ffn.lin1", "ffn.lin2"),
        ("sa_layer_norm", "output_layer_norm"),
        "behind",
    ),
}


@pytest.mark.parametrize("name", KNOWN)
def test_parts_begin_and_end_where_the_architecture_has_them(name):
    task, attention, mlp, norms, where = KNOWN[name]
    model = architectures.make(name, task)
    found = parts_of(model, discover(model))
    assert len(found) == 2
    for parts in found.values():
        for part, (first, last), norm in ((parts.attention, attention, norms[0]), (parts.mlp, mlp, norms[1])):
            at = parts.block + "."
            assert part == Part(at + first, at + last, **{where: at + norm})


def test_pictures_and_models_without_values():
    model = tiny.vit()
    parts = parts_of(model, discover(model))[0]
    assert parts.mlp is not None and parts.mlp.before.endswith("layernorm_after") and not parts.mlp.behind
    import torch

    llama = tiny.llama()
    known = parts_of(llama, discover(llama))
    wanted = {i: (p.attention.first, p.mlp.last) for i, p in known.items()}  # type: ignore[union-attr]
    with torch.device("meta"):
        empty = type(llama)(llama.config)
    found = parts_of(empty, discover(empty))
    assert {i: (p.attention.first, p.mlp.last) for i, p in found.items()} == wanted  # type: ignore[union-attr]
    assert all(p.mlp.before == "" for p in found.values())  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["mixtral", "mamba"])
def test_experts_and_other_mixers_are_refused(name):
    model = architectures.make(name, "text-generation")
    with pytest.raises(MethodError, match="feed-forward part"):
        check_parts(parts_of(model, discover(model)), "x", False, True)
    convolutions = tiny.efficientnet()
    with pytest.raises(MethodError, match="an attention"):
        check_parts(parts_of(convolutions, discover(convolutions)), "x", True, False)


def test_the_model_is_left_as_it_was():
    model = tiny.llama().train()
    parts_of(model, discover(model))
    assert model.training and not any(m._forward_hooks for m in model.modules())
