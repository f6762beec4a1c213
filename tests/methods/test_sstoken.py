"""ssToken: what is kept, by scores that transformers' own eager attention and two plain forwards give, row by row."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from tests import tiny
from tests.methods.driving import Run, assert_resumes, text_rows
from tunewright.errors import MethodError
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.needs.attention_to_prompt import AttentionToPrompt, prompt_share
from tunewright.methods.objectives.asft import ASFT
from tunewright.methods.objectives.sstoken import SSToken, kept, scored
from tunewright.methods.parameter_selection.full import FullFineTuning
from tunewright.models.attention import prepare_attention
from tunewright.models.varlen import Pattern


def asked(row) -> int:
    return next(i for i, w in enumerate(row.weights) if w > 0)


def attention(model, row, block: int) -> torch.Tensor:
    """[n] by transformers' eager attention over the row alone: each answer token's share on the prompt."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    with torch.no_grad():
        weights = model.eval()(torch.tensor([list(row.input_ids)]), output_attentions=True).attentions[block][0]
    model.set_attn_implementation(before)
    return weights.mean(0)[asked(row) :, : asked(row)].sum(-1)


def log_probs(model, row) -> torch.Tensor:
    ids = torch.tensor([list(row.input_ids)])
    with torch.no_grad():
        log_p = model.eval()(ids).logits[0].float().log_softmax(-1)
    return log_p[asked(row) - 1 : -1].gather(-1, ids[0, asked(row) :, None])[:, 0]


def by_hand(present: nn.Module, base: nn.Module, rows, keep: float, loss_share: float, block: int) -> float:
    """The step's loss: each row's mean over what is kept, rows weighed by their targets."""
    total, count = 0.0, 0
    for row in rows:
        now, then = log_probs(present, row), log_probs(base, row)
        excess = (now - then).tolist()
        low, high = min(excess), max(excess)
        share = attention(present, row, block).tolist()
        scores = [
            loss_share * (e - low) / (high - low + 1e-8) + (1 - loss_share) * a
            for e, a in zip(excess, share, strict=True)
        ]
        best = sorted(range(len(scores)), key=lambda i: -scores[i])[: math.ceil(keep * len(scores))]
        total -= len(scores) * sum(float(now[i]) for i in best) / len(best)
        count += len(scores)
    return total / count


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("keep", "loss_share", "block"), [(0.6, 0.5, -1), (0.3, 1.0, 0), (0.6, 0.0, 0)])
def test_a_steps_loss_is_that_of_the_best_tokens_by_hand(packed, keep, loss_share, block):
    """Through the loop, with a model that has moved away from its base, padded and packed."""
    model = tiny.llama()
    assert not packed or prepare_attention(model)
    rows = text_rows(prompt=3)
    method = SSToken(keep=keep, loss_share=loss_share, block=block)
    run = Run({"lora": LoRA(rank=4), "sstoken": method}, model=model, sources={"new": rows}, steps=1)
    run.stage.packed = packed
    generator = torch.Generator().manual_seed(1)
    for name, p in run.adapted.delta_parameters().items():
        if name.endswith("lora_B"):
            p.data = 0.5 * torch.randn(p.shape, generator=generator)
    with run.adapted.at_strength(1.0) as present:
        expected = by_hand(present, tiny.llama(), rows[:4], keep, loss_share, block)
    assert expected != pytest.approx(by_hand(run.adapted.model, tiny.llama(), rows[:4], 1.0, 1.0, 0), abs=1e-3)
    run.train()
    assert run.records[0]["loss"] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("make", [tiny.llama, tiny.qwen3, tiny.gpt2])
def test_attention_is_what_transformers_gives_and_the_model_is_as_it_was(make):
    model = make()
    run = Run({"full": FullFineTuning(), "sstoken": SSToken()}, model=model, steps=1)
    before = model.config._attn_implementation
    rows = text_rows(6, prompt=4)
    batch = run.task.collate(rows)
    for block in (0, -1):
        share = AttentionToPrompt(block=block).compute(run.provider.context, batch)
        assert model.config._attn_implementation == before
        expected = torch.cat([attention(make(), r, block) for r in rows])
        torch.testing.assert_close(share, expected, atol=1e-5, rtol=1e-4)


def test_a_sliding_window_hides_what_is_behind_it():
    q, k = torch.zeros(2, 2, 4), torch.zeros(6, 1, 4)
    at = torch.tensor([3, 5])
    whole = prompt_share(q, k, (at, torch.arange(6)), 2, Pattern(True, None, None))
    assert whole.tolist() == pytest.approx([2 / 4, 2 / 6])
    near = prompt_share(q, k, (at, torch.arange(6)), 2, Pattern(True, 3, None))
    assert near.tolist() == pytest.approx([1 / 3, 0.0])


def test_scores_and_weights():
    excess, share = torch.tensor([1.0, 3.0, 2.0]), torch.tensor([0.9, 0.0, 0.1])
    assert scored(excess, share, 0.5).tolist() == pytest.approx([0.45, 0.5, 0.3])
    assert kept(torch.tensor([0.1, 0.5, 0.5, 0.2, 0.5]), 0.4).tolist() == [0, 2.5, 2.5, 0, 0]
    assert kept(torch.zeros(5), 0.6).tolist() == pytest.approx([5 / 3] * 3 + [0, 0])
    assert kept(torch.zeros(1), 0.1).tolist() == [1.0]


def test_a_text_without_a_prompt_attends_to_none():
    run = Run({"full": FullFineTuning(), "sstoken": SSToken()}, steps=1)
    rows = [r.replace(weights=[1.0] * len(r.input_ids)) for r in text_rows(3)]
    share = AttentionToPrompt().compute(run.provider.context, run.task.collate(rows))
    assert len(share) == sum(len(r.input_ids) - 1 for r in rows) and not share.any()


def test_the_average_is_the_history():
    """Loss of the third step with an average of decay 0.75: weights after steps 1 and 2 averaged by hand."""
    rows, kept_weights = text_rows(prompt=3), []

    def keep_weights(loop):
        kept_weights.append({n: p.detach().clone() for n, p in loop.adapted.model.named_parameters()})

    methods = {"full": FullFineTuning(), "sstoken": SSToken(decay=0.75, loss_share=1.0)}
    run = Run(methods, sources={"new": rows}, steps=3, listen=keep_weights)
    run.train()
    one, two = kept_weights[:2]
    history, present = tiny.llama(), tiny.llama()
    for n, p in history.named_parameters():
        p.data = 0.75 * one[n] + 0.25 * two[n]
    for n, p in present.named_parameters():
        p.data = two[n]
    assert run.records[2]["loss"] == pytest.approx(by_hand(present, history, rows[8:12], 0.6, 1.0, -1), abs=1e-4)


@pytest.mark.parametrize("decay", [None, 0.9])
def test_it_resumes_beside_lora_and_another_objective(decay):
    methods = {"lora": LoRA(rank=2, dropout=0.1), "sstoken": SSToken(decay=decay), "asft": ASFT()}
    assert_resumes(lambda listen: Run(methods, listen=listen, steps=4), 2)


def test_what_cannot_serve_is_refused_before_training():
    with pytest.raises(MethodError, match="no block 5"):
        Run({"sstoken": SSToken(block=5)}, steps=1)
    with pytest.raises(MethodError, match="task text-generation"):
        Run({"sstoken": SSToken()}, task="image-classification", model=tiny.vit(), steps=1)


def test_a_model_whose_attention_nobody_sees_is_refused(monkeypatch):
    monkeypatch.setattr(type(tiny.llama()), "_supports_attention_backend", False)
    with pytest.raises(MethodError, match="cannot be read"):
        Run({"sstoken": SSToken()}, steps=1)
