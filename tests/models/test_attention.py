"""Packed forwards: every row as if it were alone, on unmodified models, and no change to any other call."""

from __future__ import annotations

import pytest
import torch
from transformers import BertConfig, BertModel, MistralConfig, MistralForCausalLM, T5Config, T5ForConditionalGeneration
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from tests import tiny
from tunewright.models import varlen
from tunewright.models.attention import NAME, attention_pairs, packed_kwargs, plain_attention, prepare_attention

LENGTHS = (5, 70, 12, 9, 1, 90)


def rows(lengths=LENGTHS):
    g = torch.Generator().manual_seed(1)
    return [torch.randint(8, tiny.VOCABULARY, (n,), generator=g) for n in lengths]


def packed(ids):
    cu = torch.tensor([0, *(len(r) for r in ids)]).cumsum(0).int()
    return {
        "input_ids": torch.cat(ids)[None],
        "position_ids": torch.cat([torch.arange(len(r)) for r in ids])[None],
        **packed_kwargs(cu),
    }


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2", "bert"])
def test_packed_rows_equal_rows_alone_with_their_gradients(name):
    model, ids = tiny.MAKERS[name](), rows()
    cache = {} if name == "bert" else {"use_cache": False}
    alone = torch.cat([model(input_ids=r[None], **cache).logits[0] for r in ids])
    weight = torch.randn(alone.shape, generator=torch.Generator().manual_seed(2))
    expected = torch.autograd.grad((alone * weight).sum(), list(model.parameters()), allow_unused=True)
    assert prepare_attention(model)
    out = model(**packed(ids), **cache).logits[0]
    assert torch.allclose(out, alone, atol=1e-5)
    for e, g in zip(
        expected, torch.autograd.grad((out * weight).sum(), list(model.parameters()), allow_unused=True), strict=True
    ):
        assert (e is None) == (g is None)
        if e is not None:
            assert (g - e).norm() <= 1e-5 * e.norm() + 1e-5


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2", "bert"])
def test_a_row_does_not_see_its_neighbours(name):
    model, ids = tiny.MAKERS[name](), rows()
    assert prepare_attention(model)
    cache = {} if name == "bert" else {"use_cache": False}
    before = model(**packed(ids), **cache).logits[0]
    ids[1] = ids[1].flip(0)
    after = model(**packed(ids), **cache).logits[0]
    a, b = sum(LENGTHS[:1]), sum(LENGTHS[:2])
    changed = (after - before).abs().amax(-1)
    assert changed[:a].max() == 0 and changed[b:].max() == 0 and changed[a:b].min() > 0


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
def test_other_calls_are_sdpa_bit_for_bit(name):
    ids = torch.stack(rows((9, 9)))
    mask = torch.ones_like(ids)
    mask[0, 6:] = 0
    resets = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4]])
    calls = [
        {"input_ids": ids, "attention_mask": mask},
        {"input_ids": ids},
        {"input_ids": ids[:1]},
        {"input_ids": ids[:1], "position_ids": resets},
    ]
    model = tiny.MAKERS[name]()
    cache = {} if name == "bert" else {"use_cache": False}
    options = {"max_new_tokens": 6, "do_sample": False, "attention_mask": mask.flip(1)}

    def said():
        written = [] if name == "bert" else [model.generate(ids, **options)]
        return [*(model(**call, **cache).logits for call in calls), *written]

    assert model.config._attn_implementation == "sdpa"
    plain = said()  # by the same weights at the same place: another copy may round otherwise
    assert prepare_attention(model) and model.config._attn_implementation == NAME
    assert all(torch.equal(a, b) for a, b in zip(plain, said(), strict=True))


def test_no_dense_mask_is_made_for_a_packed_call(monkeypatch):
    model = tiny.llama()
    assert prepare_attention(model)
    made = []
    monkeypatch.setattr(
        "tunewright.models.attention.sdpa_mask", lambda **k: made.append(k) or ALL_MASK_ATTENTION_FUNCTIONS["sdpa"](**k)
    )
    model(**packed(rows()), use_cache=False)
    assert not made
    model(input_ids=packed(rows())["input_ids"], position_ids=packed(rows())["position_ids"], use_cache=False)
    assert len(made) == 1  # the same rows without boundaries get sdpa's own dense mask, once for all layers


def test_a_sliding_window_is_honoured():
    config = dict(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MistralForCausalLM(MistralConfig(**config, sliding_window=4)).eval()
    ids = [torch.arange(n) % 64 for n in (30, 11, 90)]
    alone = torch.cat([model(input_ids=r[None], use_cache=False).logits[0] for r in ids])
    assert prepare_attention(model)
    assert torch.allclose(model(**packed(ids), use_cache=False).logits[0], alone, atol=1e-5)


def test_models_that_cannot_pack_are_left_as_they_were():
    t5 = T5ForConditionalGeneration(T5Config(vocab_size=64, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=4))
    for model in (t5, tiny.vit(), torch.nn.Linear(2, 2)):
        before = getattr(getattr(model, "config", None), "_attn_implementation", None)
        assert not prepare_attention(model)
        assert getattr(getattr(model, "config", None), "_attn_implementation", None) == before


def test_a_model_whose_rows_leak_is_refused():
    class Leaking(BertModel):
        def forward(self, *args, **kwargs):
            out = super().forward(*args, **kwargs)
            out.last_hidden_state = out.last_hidden_state + out.last_hidden_state.mean(1, keepdim=True)
            return out

    model = Leaking(
        BertConfig(
            vocab_size=64,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            initializer_range=0.3,
        )
    )
    assert not prepare_attention(model)
    assert model.config._attn_implementation == "sdpa"


def test_the_self_test_touches_neither_random_state_nor_modes():
    model = tiny.gpt2(dropout=0.5).train()
    model.transformer.ln_f.eval()
    state = torch.get_rng_state()
    assert prepare_attention(model)
    assert torch.equal(state, torch.get_rng_state())
    assert model.training and not model.transformer.ln_f.training


def test_work_grows_with_the_sum_of_squared_lengths():
    assert attention_pairs(torch.tensor([0, 3, 3, 7])) == 9 + 16
    g = torch.Generator().manual_seed(0)
    for n in (4, 64, 256):
        short = tuple(torch.randint(20, 41, (n,), generator=g).tolist())
        cu = torch.tensor([0, *short]).cumsum(0)
        assert attention_pairs(cu) <= varlen.plan_groups(short).pairs <= varlen.PADDING * attention_pairs(cu)
        assert attention_pairs(cu) <= 40 * int(cu[-1])  # linear in tokens, where a dense mask is quadratic
    assert varlen.plan_groups((300, 100, 400)).pairs == 300**2 + 100**2 + 400**2


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [None, 3])
def test_gradients_in_double_precision(causal, window):
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(9, h, 2, dtype=torch.float64, generator=g, requires_grad=True) for h in (2, 1, 1))
    cu, pattern = torch.tensor([0, 4, 6, 6, 9]), varlen.Pattern(causal, window, 0.7)
    with plain_attention():  # also differentiates twice there
        assert torch.autograd.gradcheck(lambda *x: varlen.packed_attention(*x, cu, 4, pattern), (q, k, v))
        assert torch.autograd.gradgradcheck(
            lambda *x: varlen.packed_attention(*x, cu, 4, pattern), (q, k, v), fast_mode=True
        )
    assert torch.autograd.gradcheck(lambda *x: varlen.packed_attention(*x, cu, 4, pattern), (q, k, v))
