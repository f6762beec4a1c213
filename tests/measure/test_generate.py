from __future__ import annotations

import random

import pytest
import torch

from tests import tiny
from tunewright.measure import _kv
from tunewright.measure.generate import greedy, stop_ids


def _prompts(n: int = 17, start: int = 5, seed: int = 0) -> list[list[int]]:
    rng = random.Random(seed)
    head = [rng.randrange(8, tiny.VOCABULARY) for _ in range(start)]
    return [head + [rng.randrange(8, tiny.VOCABULARY) for _ in range(rng.randrange(1, 12))] for _ in range(n)]


def _theirs(model, prompt, max_new_tokens, ends):
    ids = torch.tensor([prompt])
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=ends,
        pad_token_id=0,
    )
    new = out[0, len(prompt) :].tolist()
    return new[: next((i for i, t in enumerate(new) if t in ends), len(new))]


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2"])
@pytest.mark.parametrize("start", [0, 5])
def test_equals_the_librarys_generation_token_for_token(name, start):
    model, prompts = tiny.MAKERS[name](seed=3), _prompts(start=start)
    ends = list(range(100, 140))  # many ends, so that rows stop at different steps and leave the batch
    want = [_theirs(model, p, 9, ends) for p in prompts]
    assert len({len(w) for w in want}) > 3, "the rows should stop at different steps for this test to say something"
    assert greedy(model, tiny.tokenizer(), prompts, 9, ends) == want
    assert greedy(model, tiny.tokenizer(), prompts, 9, ends, batch_tokens=20, batch_rows=3) == want


def test_a_wrong_start_would_be_seen():
    """The comparison above has teeth: rows do read their common start."""
    model, prompts = tiny.llama(seed=3), _prompts()
    without = [p[5:] for p in prompts]
    assert greedy(model, tiny.tokenizer(), prompts, 9, ()) != greedy(model, tiny.tokenizer(), without, 9, ())


def test_a_model_of_another_cache_takes_the_librarys_generation():
    from transformers import MistralConfig, MistralForCausalLM

    config = MistralConfig(
        vocab_size=tiny.VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=4,
        initializer_range=0.1,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=3,
    )
    model, prompts, ends = tiny._make(MistralForCausalLM, config, 0), _prompts(6), list(range(100, 140))
    assert not _kv.caches_plainly(model) and _kv.caches_plainly(tiny.llama())
    assert greedy(model, tiny.tokenizer(), prompts, 6, ends) == [_theirs(model, p, 6, ends) for p in prompts]


def test_leaves_mode_and_random_state_as_they_were():
    model = tiny.gpt2(dropout=0.5)
    model.train()
    model.transformer.h[0].eval()
    before = [m.training for m in model.modules()]
    state = torch.get_rng_state()
    first = greedy(model, tiny.tokenizer(), _prompts(4), 5, ())
    assert first == greedy(model, tiny.tokenizer(), _prompts(4), 5, ())
    assert [m.training for m in model.modules()] == before and torch.equal(torch.get_rng_state(), state)


def test_small_things():
    model, tokenizer = tiny.llama(), tiny.tokenizer()
    assert stop_ids(model, tokenizer) == (tiny.EOS,)
    assert greedy(model, tokenizer, [], 5) == [] and greedy(model, tokenizer, [[9]], 0) == [[]]
    with pytest.raises(ValueError, match="prompt 1 has no tokens"):
        greedy(model, tokenizer, [[9], []], 3)
    assert _kv.common_start([[1, 2, 3], [1, 2, 4], [1, 2]]) == 1 and _kv.common_start([[1, 2]]) == 1
    assert list(_kv.batches_by_length([5, 1, 5, 9], 10, 64)) == [[1, 0], [2], [3]]
