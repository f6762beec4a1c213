from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests import tiny
from tunewright.contract.records import Record
from tunewright.contract.task import EncodeOptions
from tunewright.errors import ModelError
from tunewright.measure import drift
from tunewright.measure.drift import kl_by_row, kl_drift, restore_reference, sequence_rows, take_reference
from tunewright.tasks import get_task

CAUSAL, PREFIX = get_task("text-generation"), 3


def _sequences(n: int = 7) -> list[list[int]]:
    rng = random.Random(1)
    return [[rng.randrange(8, tiny.VOCABULARY) for _ in range(rng.randrange(6, 20))] for _ in range(n)]


def _direct(base, tuned, sequences):
    values = []
    with torch.no_grad():
        for s in sequences:
            a, b = (m(torch.tensor([s])).logits[0, PREFIX - 1 : -1].log_softmax(-1) for m in (base, tuned))
            values.append(F.kl_div(b, a, log_target=True, reduction="none").sum(-1).mean().item())
    return values


@pytest.fixture(params=["llama", "qwen3", "gpt2"])
def pair(request):
    return tiny.MAKERS[request.param](seed=0), tiny.MAKERS[request.param](seed=1)


def test_equals_the_direct_computation(pair):
    base, tuned = pair
    sequences = _sequences()
    reference = take_reference(base, CAUSAL, sequence_rows(sequences, PREFIX), batch_tokens=40)
    assert reference.log_probs is None and reference.states is not None
    got = kl_by_row(reference, tuned)
    assert got == pytest.approx(_direct(base, tuned, sequences), abs=1e-5) and min(got) > 0.05


def test_nothing_learned_is_exactly_no_drift(pair):
    base, _ = pair
    reference = take_reference(base, CAUSAL, sequence_rows(_sequences(), PREFIX))
    d = kl_drift(reference, base)
    assert (
        d.values == [0.0] * 7
        and (d.interval.low, d.interval.high) == (0.0, 0.0)
        and d.name == "kl"
        and d.interval.unit == "sequence"
    )


def test_a_trained_head_is_compared_with_the_bases_own():
    """The head is tied to the embeddings here; the reference keeps the old one."""
    model, old, sequences = tiny.llama(), tiny.llama(), _sequences()
    rows = sequence_rows(sequences, PREFIX)
    reference, live = take_reference(model, CAUSAL, rows), take_reference(model, CAUSAL, rows, copy_head=False)
    with torch.no_grad():
        model.lm_head.weight.mul_(1.3)
    assert kl_by_row(reference, model) == pytest.approx(_direct(old, model, sequences), abs=1e-5)
    with pytest.raises(ModelError, match="head changed"):
        kl_by_row(live, model)


def test_a_head_that_stays_needs_no_copy():
    model, other, sequences = tiny.qwen3(), tiny.qwen3(), _sequences()
    live = take_reference(model, CAUSAL, sequence_rows(sequences, PREFIX), copy_head=False)
    assert live.weight.data_ptr() == model.lm_head.weight.data_ptr()
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.mul_(2)
    assert kl_by_row(live, model) == pytest.approx(_direct(other, model, sequences), abs=1e-5)


def test_cached_states_serve_again(pair):
    base, tuned = pair
    rows = sequence_rows(_sequences(), PREFIX)
    first = take_reference(base, CAUSAL, rows, batch_tokens=40)
    again = restore_reference({k: v.clone() for k, v in first.tensors().items()}, base, CAUSAL, rows, batch_tokens=40)
    assert kl_by_row(again, tuned) == kl_by_row(first, tuned)


def test_logits_that_are_more_than_the_head():
    """A capped model (Gemma 2's way): the reference holds log-probabilities and the figure is still exact."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(
        vocab_size=tiny.VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        final_logit_softcapping=1.0,
        initializer_range=0.2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=3,
        attn_implementation="eager",
    )
    base, tuned = tiny._make(Gemma2ForCausalLM, config, 0), tiny._make(Gemma2ForCausalLM, config, 1)
    reference = take_reference(base, CAUSAL, sequence_rows(_sequences(), PREFIX), batch_tokens=40)
    assert reference.states is None
    assert kl_by_row(reference, tuned) == pytest.approx(_direct(base, tuned, _sequences()), abs=1e-5)


def test_masked_models_at_masked_places():
    base, tuned, task, tokenizer = tiny.bert(0), tiny.bert(1), get_task("fill-mask"), tiny.tokenizer(encoder=True)
    rows = [task.encode(Record({"text": t}, id=f"m:{i}"), tokenizer, EncodeOptions()) for i, t in enumerate(tiny.TEXT)]
    got = kl_by_row(take_reference(base, task, rows, batch_tokens=80), tuned)
    for row, value in zip(rows, got, strict=True):
        batch = task.collate([row])
        with torch.no_grad():
            a, b = (task.forward(m, batch).logits.log_softmax(-1) for m in (base, tuned))
        assert value == pytest.approx(F.kl_div(b, a, log_target=True, reduction="none").sum(-1).mean().item(), abs=1e-5)
    assert kl_by_row(take_reference(base, task, rows), base) == [0.0] * 3


def test_the_base_runs_once_for_many_strengths(monkeypatch):
    base, tuned = tiny.llama(0), tiny.llama(1)
    reference = take_reference(base, CAUSAL, sequence_rows(_sequences(), PREFIX))
    monkeypatch.setattr(base, "forward", None)
    assert kl_by_row(reference, tuned) == kl_by_row(reference, tuned)


def test_prefix_a_sequence_and_nothing_to_score():
    rows = sequence_rows([[9, 10, 11], [9, 10]], [2, 2])
    assert len(rows) == 1 and rows[0].weights == [0.0, 0.0, 1.0]
    assert (
        drift.Drift("kl", kl_drift(take_reference(tiny.llama(), CAUSAL, rows), tiny.llama(1)).interval).interval.low
        is None
    )


def _classified(n: int = 12):
    task, tokenizer = get_task("text-classification"), tiny.tokenizer(encoder=True)
    records = [Record({"text": "card " * (i % 4) + f"river {i}", "label": i % 3}, id=f"c:{i}") for i in range(n)]
    return task, [task.encode(r, tokenizer, EncodeOptions(labels=("a", "b", "c"))) for r in records]


def test_classifiers_through_the_bases_own_head():
    task, rows = _classified()
    base, tuned = tiny.bert_classifier(0), tiny.bert_classifier(1)
    reference = drift.take_features(base, task, rows, head=base.classifier, batch_tokens=30)
    after = drift.take_features(tuned, task, rows)
    with torch.no_grad():
        tuned.classifier.load_state_dict(base.classifier.state_dict())
        want = []
        for row in rows:
            a, b = (m(torch.tensor([row.input_ids])).logits.log_softmax(-1) for m in (base, tuned))
            want.append(F.kl_div(b, a, log_target=True, reduction="sum").item())
    got = drift.feature_drift(reference, after)
    assert got.values == pytest.approx(want, abs=1e-5) and got.name == "kl through the base's head" and max(want) > 1e-3
    assert drift.feature_drift(reference, reference).interval.high == 0


def test_without_a_head_it_is_one_minus_cka_and_named_so():
    task, rows = _classified()
    base, tuned = (drift.take_features(tiny.bert_classifier(s), task, rows) for s in (0, 1))
    got = drift.feature_drift(base, tuned)
    assert got.name == "1 - linear CKA" and 0 < got.interval.value <= 1 and got.interval.low < got.interval.high
    assert drift.feature_drift(base, base).interval.value == pytest.approx(0, abs=1e-9)


def test_cka_does_not_see_rotation_or_scale():
    g = torch.Generator().manual_seed(0)
    x, (q, _) = torch.randn(30, 5, generator=g), torch.linalg.qr(torch.randn(5, 5, generator=g))
    assert drift.linear_cka(x, 3 * x @ q + 1) == pytest.approx(1)
    assert drift.linear_cka(x, torch.randn(30, 5, generator=g)) < 0.5
    with pytest.raises(ValueError, match="same for every row"):
        drift.linear_cka(torch.ones(4, 2), x[:4])


@pytest.mark.parametrize("packed", [False, True])
def test_a_reference_of_some_rows_reads_nothing_again(packed, monkeypatch):
    base, tuned = tiny.llama(0), tiny.llama(1)
    whole = take_reference(base, CAUSAL, sequence_rows(_sequences(), PREFIX), batch_tokens=40)
    values = kl_by_row(whole, tuned)
    monkeypatch.setattr(base, "forward", None)
    for chosen in ([0, 3, 6], [5, 1], [2]):
        some = whole.of_rows(chosen)
        assert [r.id for r in some.rows] == [f"drift:{i}" for i in chosen] and some.batch_tokens == 40
        assert kl_by_row(some, tuned) == pytest.approx([values[i] for i in chosen], abs=1e-6)


def test_some_rows_of_a_masked_reference_without_states():
    base, tuned, task, tokenizer = tiny.bert(0), tiny.bert(1), get_task("fill-mask"), tiny.tokenizer(encoder=True)
    rows = [task.encode(Record({"text": t}, id=f"m:{i}"), tokenizer, EncodeOptions()) for i, t in enumerate(tiny.TEXT)]
    whole = take_reference(base, task, rows)
    values, some = kl_by_row(whole, tuned), whole.of_rows([2, 0])
    assert kl_by_row(some, tuned) == pytest.approx([values[2], values[0]], abs=1e-6)
    some.states, some.log_probs = None, torch.log_softmax(base.get_output_embeddings()(some.states), -1).detach()
    assert kl_by_row(some.of_rows([1]), tuned) == pytest.approx([values[0]], abs=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_a_divergence_never_rounds_below_nothing(pair, seed):
    base, _ = pair
    reference = take_reference(base, CAUSAL, sequence_rows(_sequences(40), PREFIX))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in base.parameters():
            p.mul_(1 + 1e-7 * torch.randn(p.shape, generator=generator))
    assert min(kl_by_row(reference, base)) >= 0.0


@pytest.mark.parametrize("width", [3, 40])
def test_alignment_of_rows_drawn_again_is_that_of_their_features(width, monkeypatch):
    g = torch.Generator().manual_seed(width)
    x, y = torch.randn(20, width, generator=g) + 3, torch.randn(20, width, generator=g)
    found = drift.Unaligned(x, y)
    assert (found.products is None) == (width == 3)  # of narrow features these are more work
    rng = np.random.default_rng(0)
    for rows in (np.arange(20), rng.integers(0, 20, 20), rng.integers(0, 20, 6)):
        i = torch.from_numpy(rows)
        assert found(rows) == pytest.approx(1 - drift.linear_cka(x[i], y[i]), abs=1e-9)
    assert math.isnan(found(np.zeros(5, dtype=int)))
    assert drift.Unaligned(x, torch.ones(20, width))(np.arange(20)) == 1
