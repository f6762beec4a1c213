"""Emulated fine-tuning: its identities on bare tensors, and through generation, choice and loss with three models."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests import tiny
from tunewright.conformance.bench import token_rows
from tunewright.measure import _kv
from tunewright.measure.choose import likelihood_choice
from tunewright.measure.generate import greedy
from tunewright.measure.target import evaluate
from tunewright.methods.decoding.emulated_fine_tuning import EmulatedFineTuning, emulated, nucleus
from tunewright.models.attention import prepare_attention
from tunewright.models.together import Together
from tunewright.tasks import get_task

TASK = get_task("text-generation")
PROMPTS = [[1, 9, 12], [1, 9, 30, 31, 77, 12], [1, 9, 200], [1, 9, 44, 45, 46, 47, 48]]


def drawn(seed: int, *shape: int) -> Tensor:
    return 4 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def eft(large, tuned, base, **settings) -> Together:
    method = EmulatedFineTuning(**settings)
    return Together({"tuned": tuned, "base": base, "large": large}, lambda logits: method.predict(logits)).eval()


# -- the formula
# ---------------------------------------------------------------------------------------------------------


@given(st.integers(0, 10_000), st.sampled_from([1.0, 0.3, 2.5]), st.sampled_from([1e-3, 1.0, 50.0]))
def test_nothing_changed_by_tuning_gives_the_large_base_bit_for_bit(seed, beta, scale):
    large, small = drawn(seed, 3, 40) * scale, drawn(seed + 1, 3, 40)
    assert torch.equal(emulated(large, small, small, beta), large)
    assert torch.equal(emulated(large, drawn(seed + 2, 3, 40), small, 0.0), large)


@given(st.integers(0, 10_000), st.sampled_from([1e-3, 1.0, 50.0]))
def test_the_small_base_as_the_large_one_gives_the_tuned_model_bit_for_bit(seed, scale):
    tuned, base = drawn(seed, 3, 40) * scale, drawn(seed + 1, 3, 40)
    assert torch.equal(emulated(base, tuned, base), tuned)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0, 3.0])
def test_log_probabilities_are_the_large_ones_plus_the_reward_less_log_z(beta):
    large, tuned, base = (torch.log_softmax(drawn(s, 5, 60).double(), -1) for s in range(3))
    reward = beta * (tuned - base)
    log_z = (large + reward).logsumexp(-1, keepdim=True)
    got = torch.log_softmax(emulated(large.float(), tuned.float(), base.float(), beta).double(), -1)
    torch.testing.assert_close(got, large + reward - log_z, atol=1e-5, rtol=0)
    # Z is the large base's expectation of (p_tuned / p_base)^beta
    torch.testing.assert_close(log_z[:, 0].exp(), (large.exp() * (tuned.exp() / base.exp()) ** beta).sum(-1))


def test_a_constant_added_to_a_models_logits_changes_nothing():
    large, tuned, base = (drawn(s, 4, 30) for s in range(3))
    plain = torch.softmax(emulated(large, tuned, base, 0.7), -1)
    torch.testing.assert_close(
        torch.softmax(emulated(large + 3, tuned - 7, base + 20, 0.7), -1), plain, atol=1e-5, rtol=1e-4
    )


def test_what_a_model_rules_out_stays_ruled_out_and_nothing_is_nan():
    large, tuned, base = (drawn(s, 1, 6) for s in range(3))
    large[0, 0] = tuned[0, 1] = base[0, 2] = -math.inf
    large[0, 3] = tuned[0, 3] = base[0, 3] = -math.inf
    for beta in (0.0, 1.0):
        got = emulated(large, tuned, base, beta)
        assert got[0, :4].eq(-math.inf).all() and got[0, 4:].isfinite().all()


def test_the_filter_counts_the_change_for_the_likeliest_tokens_only():
    large = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))
    assert nucleus(large, 0.45).tolist() == [[True, False, False, False]]
    assert nucleus(large, 0.81).tolist() == [[True, True, True, False]]
    assert nucleus(large, 1e-9).sum() == 1
    tuned, base = drawn(1, 1, 4), drawn(2, 1, 4)
    got = emulated(large, tuned, base, 1.0, 0.81)
    assert torch.equal(got[:, 3], large[:, 3]) and torch.equal(got[:, :3], emulated(large, tuned, base)[:, :3])
    assert torch.equal(emulated(large, tuned, base, 1.0, 1.0), emulated(large, tuned, base))


# -- three models as one
# -------------------------------------------------------------------------------------------------

SMALL, TUNED, LARGE = tiny.llama(0), tiny.llama(1), tiny.llama(2, layers=3, hidden=64)


def said(model, packed: bool = False) -> Tensor:
    with torch.no_grad():
        return TASK.forward(model, TASK.collate(token_rows("x", 3, False), packed)).logits


@pytest.mark.parametrize("large", [LARGE, tiny.qwen3(3), tiny.gpt2(4)], ids=["llama", "qwen3", "gpt2"])
def test_the_same_model_twice_speaks_and_writes_as_the_large_base(large):
    together = eft(large, SMALL, SMALL)
    assert torch.equal(said(together), said(large).float())
    assert greedy(together, tiny.tokenizer(), PROMPTS, 12) == greedy(large, tiny.tokenizer(), PROMPTS, 12)


def test_the_small_base_as_the_large_one_speaks_and_writes_as_the_tuned_model():
    together = eft(SMALL, TUNED, SMALL)
    assert torch.equal(said(together), said(TUNED))
    assert greedy(together, tiny.tokenizer(), PROMPTS, 12) == greedy(TUNED, tiny.tokenizer(), PROMPTS, 12)


@pytest.mark.parametrize(
    "prompts", [PROMPTS, [p[1:] + [i] for i, p in enumerate(PROMPTS)], PROMPTS[:1]], ids=["common start", "none", "one"]
)
def test_writing_with_caches_equals_whole_forwards_token_by_token(prompts):
    together = eft(LARGE, TUNED, SMALL, beta=1.5)
    assert _kv.caches_plainly(together)
    got = greedy(together, None, prompts, 8, stop_ids=[17, 18, 19])
    for prompt, answer in zip(prompts, got, strict=True):
        ids = list(prompt)
        for _ in range(8):
            with torch.no_grad():
                large, tuned, base = (m(torch.tensor([ids])).logits[0, -1] for m in (LARGE, TUNED, SMALL))
            token = int((large + 1.5 * (tuned - base)).argmax())
            if token in (17, 18, 19):
                break
            ids.append(token)
        assert answer == ids[len(prompt) :]
    assert len({tuple(greedy(m, None, prompts, 8, stop_ids=[17])[0]) for m in (together, LARGE, TUNED)}) == 3


def test_choice_and_loss_are_those_of_the_emulated_distribution():
    tokenizer = tiny.tokenizer()
    from tunewright.contract.records import Record
    from tunewright.contract.task import EncodeOptions

    records = [
        Record({"prompt": f"card {i}", "completion": c}, id=str(i), where="", source="x")
        for i, c in enumerate(("lost card", "cash fee", "fee"))
    ]
    rows = [TASK.encode(r, tokenizer, EncodeOptions()) for r in records]
    together = eft(LARGE, TUNED, SMALL)
    labels = ["lost card", "cash fee", "fee"]
    best = []
    for row, result in zip(rows, evaluate(together, tokenizer, TASK, rows, "loss"), strict=True):
        ids = torch.tensor([row.input_ids])
        with torch.no_grad():
            logits = LARGE(ids).logits + TUNED(ids).logits - SMALL(ids).logits
        nats = -torch.log_softmax(logits, -1)[0, :-1].gather(-1, ids[0, 1:, None])[:, 0]
        weights = torch.tensor(row.weights[1:])
        assert result.score == pytest.approx(float((nats * weights).sum() / weights.sum()), abs=1e-4)
    for record, result in zip(records, likelihood_choice(together, tokenizer, rows, labels, full=True), strict=True):
        sides = [TASK.answer(record, label, tokenizer, EncodeOptions()) for label in labels]
        losses = evaluate(together, tokenizer, TASK, sides, "loss")
        best.append(min(range(3), key=lambda i: losses[i].score * losses[i].weight))
        assert result.answer == labels[best[-1]]


def test_packed_rows_speak_as_padded_ones():
    models = [tiny.llama(2, layers=3, hidden=64), tiny.llama(1), tiny.llama(0)]
    assert all(prepare_attention(m) for m in models)
    torch.testing.assert_close(said(eft(*models), packed=True), said(eft(LARGE, TUNED, SMALL)), atol=1e-4, rtol=1e-4)


def test_padding_of_a_wider_embedding_is_cut_off():
    wide, narrow = tiny.llama(5, vocabulary=336), tiny.llama(6)
    assert said(eft(wide, TUNED, SMALL)).shape[-1] == 320
    out = said(Together({"tuned": wide, "base": narrow}, lambda x: x["tuned"] + x["base"]))
    assert out.shape[-1] == 336 and out[:, 320:].eq(-math.inf).all() and out[:, :320].isfinite().all()
