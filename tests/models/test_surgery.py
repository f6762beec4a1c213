"""Changes of a model's shape, against counting by hand: what is copied, what divides, and how the base is had back."""

from __future__ import annotations

import copy
import json
from typing import ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GemmaConfig, GemmaForCausalLM, OPTConfig, OPTForCausalLM, T5Config, T5ForConditionalGeneration

from tests import tiny
from tunewright.errors import MethodError
from tunewright.models.adapted import Adapted
from tunewright.models.agreement import differing
from tunewright.models.blocks_moved import Rearranged
from tunewright.models.deltas import Sparse, attach
from tunewright.models.surgeries import recorded, replayed
from tunewright.models.surgery import Surgery, says
from tunewright.models.widening import Shape, Widened


def opt():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = OPTConfig(vocab_size=64, word_embed_proj_dim=32, max_position_embeddings=32, init_std=0.3, **sizes)
    return OPTForCausalLM(config).eval()


def untied():
    model = tiny.llama()
    config = copy.deepcopy(model.config)
    config.tie_word_embeddings = False
    return tiny._make(type(model), config, 1)


def wide(model, factor: float = 2.0, above: bool = False) -> Widened:
    """Even channels; heads and neurons beyond the old ones all copy the last old one but one."""
    shape = Shape.of(model)
    new = shape.times(factor)
    blocks = model.config.num_hidden_layers

    def beyond(old: int, now: int) -> list[int]:
        return [*range(old), *([max(0, old - 2)] * (now - old))]

    return Widened(
        [i % shape.channels for i in range(new.channels)],
        [beyond(shape.groups, new.groups)] * blocks,
        [beyond(shape.neurons, new.neurons)] * blocks,
        above,
    )


MODELS = [tiny.llama, untied, tiny.qwen3, tiny.bert, tiny.bert_classifier, tiny.vit]


@pytest.mark.parametrize("maker", MODELS, ids=lambda m: m.__name__)
@pytest.mark.parametrize("factor", [2.0, 3.0])
def test_a_model_of_even_channels_says_what_the_small_one_says(maker, factor):
    model = maker()
    before, parameters = says(model), sum(p.numel() for p in model.parameters())
    adapted = Adapted(model)
    adapted.operate(wide(model, factor))
    assert float((says(model) - before).abs().max()) < 2e-5 * float(before.abs().max())
    assert model.config.hidden_size == factor * Shape.of(maker()).channels
    assert sum(p.numel() for p in model.parameters()) > factor * parameters and adapted.base_size == parameters


def test_channels_copied_unevenly_move_what_a_norm_sees():
    model = tiny.llama()
    before = says(model)
    surgery = wide(model, 1.5)
    assert not surgery.preserves
    Adapted(model).operate(surgery)
    assert float((says(model) - before).abs().max()) > 0.01 * float(before.abs().max())


def test_rows_are_copied_and_columns_divided_by_their_counts():
    model, small = tiny.llama(), dict(tiny.llama().named_parameters())
    shape, surgery = Shape.of(model), wide(tiny.llama())
    Adapted(model).operate(surgery)
    name = "model.layers.1.mlp.down_proj.weight"
    got, neurons = dict(model.named_parameters())[name], surgery.neurons[1]
    for i in range(2 * shape.channels):
        for j in range(2 * shape.neurons):
            old = small[name][i % shape.channels, neurons[j]]
            assert torch.isclose(got[i, j], old / neurons.count(neurons[j]), rtol=1e-6)
    query, groups = dict(model.named_parameters())["model.layers.0.self_attn.q_proj.weight"], surgery.groups[0]
    share = shape.heads // shape.groups
    for head in range(2 * shape.heads):
        source = groups[head // share] * share + head % share
        rows = small["model.layers.0.self_attn.q_proj.weight"][source * shape.head_size :][: shape.head_size]
        expected = torch.cat([rows, rows], 1) / 2
        assert torch.equal(query[head * shape.head_size :][: shape.head_size], expected)


def test_rows_beyond_the_old_ones_come_from_the_block_above():
    model, small = tiny.llama(), dict(tiny.llama().named_parameters())
    surgery = wide(tiny.llama(), above=True)
    Adapted(model).operate(surgery)
    got, f = dict(model.named_parameters()), Shape.of(tiny.llama()).neurons
    for block, upper in ((0, 1), (1, 1)):
        weight = got[f"model.layers.{block}.mlp.up_proj.weight"]
        own, above = (small[f"model.layers.{b}.mlp.up_proj.weight"] for b in (block, upper))
        assert torch.equal(weight[:f], torch.cat([own, own], 1) / 2)
        places = surgery.neurons[block][f:]
        assert torch.equal(weight[f:], torch.cat([above[places], above[places]], 1) / 2)
        down = got[f"model.layers.{block}.mlp.down_proj.weight"]  # read as the own ones are
        assert torch.equal(
            down[: len(down) // 2],
            (small[f"model.layers.{block}.mlp.down_proj.weight"] / 1)[:, surgery.neurons[block]]
            / torch.tensor([surgery.neurons[block].count(n) for n in surgery.neurons[block]]),
        )


@given(order=st.lists(st.integers(0, 2), min_size=1, max_size=5))
@settings(max_examples=8, deadline=None)
def test_block_i_is_a_copy_of_the_old_block_that_the_order_names(order):
    model = tiny.llama(layers=3)
    old = {n: t.clone() for n, t in model.state_dict().items()}
    adapted = Adapted(model)
    adapted.operate(Rearranged(order))
    assert model.config.num_hidden_layers == len(order) == len(adapted.structure.blocks)
    for name, t in model.state_dict().items():
        parts = name.split(".")
        source = [*parts[:2], str(order[int(parts[2])]), *parts[3:]] if parts[1] == "layers" else parts
        assert torch.equal(t, old[".".join(source)])
    assert [layer.self_attn.layer_idx for layer in model.model.layers] == list(range(len(order)))
    adapted.forget_changes()
    assert not differing(dict(model.state_dict()), old) and model.config.num_hidden_layers == 3


@pytest.mark.parametrize("maker", [tiny.llama, tiny.qwen3, tiny.gpt2, tiny.vit, opt], ids=lambda m: m.__name__)
def test_silent_copies_pass_their_input_on_bit_for_bit(maker):
    model = maker()
    before = says(model)
    Adapted(model).operate(Rearranged([0, 0, 1, 1], [1, 3]))
    assert torch.equal(says(model), before)
    for p in model.parameters():
        p.requires_grad_(True)
    inputs = model.main_input_name
    given = torch.arange(8, 16)[None] if inputs == "input_ids" else torch.ones(1, 3, *[model.config.image_size] * 2)
    model(**{inputs: given}).logits.sum().backward()
    assert sum(bool(p.grad is not None and p.grad.abs().sum() > 0) for p in model.parameters()) > 20


def test_norms_after_the_sum_are_seen_and_refused():
    model = tiny.bert()
    with torch.no_grad():
        for n, p in model.named_parameters():
            if "LayerNorm.weight" in n:
                p.mul_(torch.linspace(0.5, 2.0, len(p)))
    adapted = Adapted(model)
    with pytest.raises(MethodError, match="should leave what the model says as it is, and moves the logits"):
        adapted.operate(Rearranged([0, 1, 1], [2]))
    assert not adapted.operated and model.config.num_hidden_layers == 2


def gemma():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = GemmaConfig(vocab_size=64, num_key_value_heads=2, head_dim=8, initializer_range=0.3, **sizes)
    return GemmaForCausalLM(config).eval()


def t5():
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    return T5ForConditionalGeneration(T5Config(vocab_size=64, decoder_start_token_id=0, **sizes)).eval()


@pytest.mark.parametrize(
    ("maker", "says_what"),
    [
        (gemma, "should leave what the model says as it is"),
        (tiny.gpt2, "has 2 linear layers, and four are known"),
    ],
    ids=["gemma", "gpt2"],
)
def test_what_cannot_be_widened_is_refused_and_left_alone(maker, says_what):
    model = maker()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    adapted = Adapted(model)
    if maker is tiny.gpt2:
        model.config.n_inner = 128
    with pytest.raises(MethodError, match=says_what):
        adapted.operate(wide(model))
    assert not adapted.operated and not differing(dict(model.state_dict()), before)


def test_two_stacks_and_configs_that_do_not_say_are_refused():
    with pytest.raises(MethodError, match="2 stacks of blocks"):
        Adapted(t5()).operate(Rearranged([0, 1, 1]))
    with pytest.raises(MethodError, match="does not say how wide it is"):
        Shape.of(tiny.efficientnet())
    with pytest.raises(MethodError, match=r"1.3 times .* is no whole number"):
        Shape.of(tiny.llama()).times(1.3)
    with pytest.raises(MethodError, match="the model has 2 blocks, and block 2 is asked for"):
        Adapted(tiny.llama()).operate(Rearranged([0, 1, 2]))


def test_maps_that_are_no_growth_are_refused():
    model = tiny.llama()
    surgery = wide(model)
    for name, value in (
        ("channels", surgery.channels[::-1]),
        ("neurons", [[0, *m[1:-1], 10_000] for m in surgery.neurons]),
    ):
        other = Widened(**{**surgery.settings(), name: value})
        with pytest.raises(MethodError, match=f"a map of {name} keeps the"):
            Adapted(tiny.llama()).operate(other)
    with pytest.raises(MethodError, match="the model has 2 blocks, and there are maps for 1"):
        Adapted(model).operate(Widened(surgery.channels, surgery.groups[:1], surgery.neurons))


def test_records_are_json_and_do_the_same_again():
    model, again = tiny.llama(), tiny.llama()
    first, second = Adapted(model), Adapted(again)
    for surgery in (wide(model, above=True), Rearranged([0, 1, 1, 0], [2])):
        first.operate(surgery)
    for record in json.loads(json.dumps(first.surgeries())):
        second.operate(replayed(record))
    assert not differing(dict(again.state_dict()), dict(model.state_dict()))
    assert recorded(second.operated[1].surgery)["settings"] == {"order": [0, 1, 1, 0], "silent": [2]}
    with pytest.raises(MethodError, match="no surgery is named 'block'"):
        replayed({"form": "block", "settings": {}})


def test_a_surgery_that_no_file_could_do_again_is_refused():
    class Own(Rearranged):
        form: ClassVar[str] = "own"

    with pytest.raises(MethodError, match="the surgery 'own' of Own could not be done again .* no class"):
        Adapted(tiny.llama()).operate(Own([0, 1, 1]))

    class Taken(Rearranged):
        pass

    with pytest.raises(MethodError, match="its name gives the class Rearranged"):
        Adapted(tiny.llama()).operate(Taken([0, 1, 1]))
    assert issubclass(Own, Surgery)


def test_a_model_that_was_trained_grows_from_its_weights_and_goes_back_to_the_base():
    """What trains on is the tuned model grown; the way back is the base grown, and then the base."""
    model, base = tiny.llama(), {n: t.clone() for n, t in tiny.llama().state_dict().items()}
    adapted = Adapted(model)
    name = "model.layers.1.mlp.up_proj.weight"
    adapted.remember(name)
    with torch.no_grad():
        adapted.base_parameters()[name].mul_(3)
    surgeries = [wide(model), Rearranged([0, 1, 1])]
    for surgery in surgeries:
        adapted.operate(surgery)
    expected = tiny.llama()
    with torch.no_grad():
        dict(expected.named_parameters())[name].mul_(3)
    grown_base = Adapted(tiny.llama())
    from_tuned = Adapted(expected)
    for surgery in surgeries:
        grown_base.operate(surgery)
        from_tuned.operate(surgery)
    assert not differing(dict(model.state_dict()), dict(from_tuned.model.state_dict()))
    assert set(adapted.originals) == {name, name.replace("1", "2")}
    with adapted.started() as started:
        assert not differing(dict(started.state_dict()), dict(grown_base.model.state_dict()))
    with adapted.base() as own:
        assert not differing(dict(own.state_dict()), base)
    with adapted.at_strength(0.5):
        half = adapted.base_parameters()[name].clone()
    start = grown_base.base_parameters()[name]
    assert torch.allclose(half, 2 * start, rtol=1e-5)
    adapted.forget_changes()
    assert not differing(dict(model.state_dict()), base)


def test_a_model_with_deltas_is_not_operated_on():
    adapted = Adapted(tiny.llama())
    site = adapted.structure.linear_sites()[0]
    attach(site, "x", Sparse(torch.tensor([1]), torch.tensor([1.0]), (site.out_features, site.in_features)))
    with pytest.raises(MethodError, match="the model carries deltas, which a change of its shape would lose"):
        adapted.operate(Rearranged([0, 1, 1]))


def test_rows_that_always_train_are_the_same_rows_of_a_wider_embedding():
    model = tiny.llama()
    adapted = Adapted(model)
    name, d = "model.embed_tokens.weight", model.config.hidden_size
    adapted.always = {name: torch.cat([torch.arange(d) + 5 * d, torch.arange(d) + 9 * d])}
    adapted.operate(wide(model))
    assert torch.equal(adapted.always[name] // (2 * d), torch.tensor([5] * 2 * d + [9] * 2 * d))
    adapted.forget_changes()
    assert torch.equal(adapted.always[name].unique() // d, torch.tensor([5] * d + [9] * d))


def test_half_precision_and_packed_attention_go_along():
    from tunewright.models.attention import NAME, prepare_attention

    model = tiny.llama()
    assert prepare_attention(model)
    adapted = Adapted(model.to(torch.bfloat16))
    before = says(model)
    adapted.operate(wide(model))
    assert model.config._attn_implementation == NAME and {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert float((says(model) - before).abs().max()) < 0.1 * float(before.abs().max())
    assert all(b.dtype == torch.float32 for n, b in model.named_buffers() if "inv_freq" in n)


@pytest.mark.parametrize(
    ("silent", "words"),
    [
        ([], "3 blocks, in order the old model's blocks 0, 1, 1"),
        ([2], "blocks 0, 1, 1, of which the new block 2 passes its input on unchanged at first"),
        ([1, 2], "blocks 0, 1, 1, of which the new blocks 1, 2 pass their input on unchanged at first"),
    ],
)
def test_moved_blocks_are_told_in_a_sentence(silent, words):
    assert Rearranged([0, 1, 1], silent).told().endswith(words)
