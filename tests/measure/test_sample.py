"""Sampling: the whole softmax at temperature 1, the same however it is batched, global random state untouched."""

from __future__ import annotations

import json

import pytest
import torch

from tests import tiny
from tests.tasks import chat_templates as stock
from tunewright.errors import ModelError
from tunewright.measure import _kv, sample
from tunewright.measure.sample import Sequences, conditioning_ids, draw, sample_sequences, shipped_sequences


@pytest.mark.parametrize("name", ["gemma-3", "qwen3", "llama-2", "idefics3", "hermes-3"])
def test_conditioning_under_any_template_is_its_empty_question_or_the_start_token(name):
    t = stock.tokenizer(name)
    got = t.decode(conditioning_ids(t))
    if name == "hermes-3":  # refuses every conversation without tools
        assert got == t.bos_token
    else:
        assert got.endswith(t.decode(stock.encode(name, "one").fields["prompt_ids"])[-7:]) and "Who?" not in got


def test_conditioning():
    chat = tiny.tokenizer()
    assert chat.decode(conditioning_ids(chat)) == "<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n"
    assert conditioning_ids(tiny.tokenizer(chat=False)) == [tiny.BOS]
    bare = tiny.tokenizer(chat=False)
    bare.bos_token = None
    assert conditioning_ids(bare) == [tiny.EOS]
    bare.eos_token = None
    with pytest.raises(ModelError, match="to sample from"):
        conditioning_ids(bare)


def test_draws_follow_the_softmax():
    logits = torch.tensor([0.0, 1.0, 2.0, -30.0]).log_softmax(-1)
    uniform = torch.rand(20000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    share = torch.bincount(draw(logits.expand(20000, 4), uniform), minlength=4) / 20000
    assert torch.allclose(share, logits.exp(), atol=0.012)
    edges = draw(
        torch.tensor([[float("-inf"), 0.0, float("-inf")]] * 2), torch.tensor([0.0, 1 - 1e-16], dtype=torch.float64)
    )
    assert edges.tolist() == [1, 1]


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3"])
def test_a_sample_is_a_draw_from_each_places_distribution(family):
    model, tokenizer = tiny.MAKERS[family](), tiny.tokenizer()
    start = conditioning_ids(tokenizer)
    uniform = torch.rand(5, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    for row, ids in enumerate(sample_sequences(model, tokenizer, 5, 12, seed=3)):
        assert ids[: len(start)] == start
        logits = model(input_ids=torch.tensor([ids])).logits[0].float()
        for place, token in enumerate(ids[len(start) :]):
            total = torch.softmax(logits[len(start) + place - 1].double(), -1).cumsum(-1)
            low = total[token - 1] if token else 0
            assert low - 1e-5 <= uniform[row, place] <= total[token] + 1e-5


def test_equal_for_a_seed_and_any_batch_and_without_a_cache(monkeypatch):
    model, tokenizer = tiny.llama(), tiny.tokenizer()
    state = torch.get_rng_state()
    first = sample_sequences(model, tokenizer, 7, 20, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert sample_sequences(model, tokenizer, 7, 20, seed=1, batch_rows=3) == first
    assert sample_sequences(model, tokenizer, 7, 20, seed=2) != first
    monkeypatch.setattr(_kv, "caches_plainly", lambda model: False)
    assert sample_sequences(model, tokenizer, 7, 20, seed=1) == first


@pytest.mark.parametrize("plain", [True, False])
def test_the_end_token_is_the_last_and_counts(monkeypatch, plain):
    model, tokenizer = tiny.llama(), tiny.tokenizer()
    start = len(conditioning_ids(tokenizer))
    often = sample_sequences(model, tokenizer, 1, 12, seed=0)[0][start + 4]  # a token that this sample holds
    model.generation_config.eos_token_id = often
    if not plain:
        monkeypatch.setattr(_kv, "caches_plainly", lambda model: False)
    ids = sample_sequences(model, tokenizer, 8, 40, seed=0)
    ended = [row for row in ids if len(row) < start + 40]
    assert ended and len(ids[0]) <= start + 5
    for row in ended:
        assert row[-1] in (often, tiny.EOS) and not {often, tiny.EOS} & set(row[start:-1])


def test_a_short_context_shortens_and_a_full_one_is_refused():
    model, tokenizer = tiny.llama(), tiny.tokenizer()
    start = len(conditioning_ids(tokenizer))
    model.config.max_position_embeddings = start + 3
    assert max(map(len, sample_sequences(model, tokenizer, 3, 40, seed=0))) == start + 3
    model.config.max_position_embeddings = start
    with pytest.raises(ModelError, match="longer context"):
        sample_sequences(model, tokenizer, 3, 40, seed=0)


def test_the_model_keeps_its_mode():
    model = tiny.gpt2(dropout=0.5).train()
    first = sample_sequences(model, tiny.tokenizer(), 2, 8, seed=0)
    assert model.training and sample_sequences(model, tiny.tokenizer(), 2, 8, seed=0) == first


def test_first_cuts_rows_and_tokens():
    held = Sequences([[1, 2, 3, 4, 5], [1, 2, 6], [1, 2, 7]], conditioning=2)
    assert held.first(2, 2) == Sequences([[1, 2, 3, 4], [1, 2, 6]], 2)


def test_shipped_sequences_are_found_by_the_whole_hash():
    (file,) = sample.files("tunewright.data.quickstart").glob("drift-*.json")
    facts = json.loads(file.read_text())
    held = shipped_sequences(facts["base_hash"], facts["beside"])
    assert len(held.ids) == 64 and held.conditioning == len(facts["prefix"])
    assert all(held.conditioning < len(ids) <= held.conditioning + 64 for ids in held.ids)
    assert all(len(row) == 64 or row[-1] == 2 for row in facts["sampled"])  # cut at 64 or ended by <|im_end|>
    assert len({tuple(row) for row in facts["sampled"]}) == 64
    for other in (facts["base_hash"][:12] + "0" * 52, "f" * 64):
        assert shipped_sequences(other, facts["beside"]) is None
    assert shipped_sequences(facts["base_hash"], "0" * 64) is None  # the same weights under another config
