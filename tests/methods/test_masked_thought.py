"""Masked Thought: only answer tokens of the input change, at the rate; labels stay; draws do not depend on packing."""

from __future__ import annotations

import random

import pytest
import torch

from tests import tiny
from tests.methods.driving import Run, assert_resumes, changed, text_rows
from tunewright.errors import MethodError
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.inputs.masked_thought import MaskedThought, masked
from tunewright.models.adapted import Adapted
from tunewright.tasks import get_task

TASK, ROWS = get_task("text-generation"), text_rows(60, prompt=3)


def keyed(batch):
    return lambda i: random.Random(batch.row_ids[i])


def test_labels_prompt_and_the_callers_batch_stay():
    batch = TASK.collate(ROWS, packed=True)
    before = batch.inputs["input_ids"].clone()
    got = masked(batch, 0.5, 4, 320, keyed(batch))
    ids, old = got.inputs["input_ids"][0], before[0]
    answer = batch.positions + 1
    assert torch.equal(got.labels, batch.labels) and torch.equal(old[answer], batch.labels)
    outside = torch.ones_like(old, dtype=torch.bool)
    outside[answer] = False
    assert torch.equal(ids[outside], old[outside]) and torch.equal(batch.inputs["input_ids"], before)
    assert set(ids[answer][ids[answer] != old[answer]].tolist()) == {4}


@pytest.mark.parametrize("rate", [0.2, 0.4, 1.0])
def test_the_masked_share_is_the_rate(rate):
    batch = TASK.collate(text_rows(400), packed=True)
    ids = masked(batch, rate, 4, 320, keyed(batch)).inputs["input_ids"][0][batch.positions + 1]
    n = len(ids)
    assert abs(int((ids == 4).sum()) - rate * n) <= 4 * (n * rate * (1 - rate)) ** 0.5 + 1e-9


def test_random_ids_are_spread_over_the_vocabulary():
    batch = TASK.collate(text_rows(400), packed=True)
    ids = masked(batch, 1.0, None, 320, keyed(batch)).inputs["input_ids"][0][batch.positions + 1]
    assert int(ids.max()) < 320 and int(ids.min()) >= 0 and len(ids.unique()) > 280


def test_packed_padded_and_split_batches_see_the_same_tokens():
    packed, padded = TASK.collate(ROWS[:6], packed=True), TASK.collate(ROWS[:6], packed=False)
    alone = [TASK.collate([r], packed=True) for r in ROWS[:6]]
    one = masked(packed, 0.5, None, 320, keyed(packed)).inputs["input_ids"].flatten()
    other = masked(padded, 0.5, None, 320, keyed(padded)).inputs
    each = [masked(b, 0.5, None, 320, keyed(b)).inputs["input_ids"].flatten() for b in alone]
    assert torch.equal(one, other["input_ids"][padded.inputs["attention_mask"].bool()]) and torch.equal(
        one, torch.cat(each)
    )


def test_rate_zero_is_plain_fine_tuning_and_the_rate_rises():
    plain = changed(Run({"lora": LoRA(rank=2)}).train())
    none = changed(Run({"lora": LoRA(rank=2), "m": MaskedThought(rate=0.0)}).train())
    some = changed(Run({"lora": LoRA(rank=2), "m": MaskedThought(rate=0.5)}).train())
    assert all(torch.equal(plain[n], none[n]) for n in plain) and any(not torch.equal(plain[n], some[n]) for n in plain)
    run = Run(
        {"lora": LoRA(rank=2), "m": MaskedThought(rate=1.0, warmup=1.0, mask=4)},
        steps=2,
        sources={"new": text_rows(40)},
        batch=40,
    )
    rows = run.cursor.next_batch()
    from tunewright.training.train import Loop

    loop, shares = Loop(run.stage), []
    for step in (0, 1):
        loop.step_number = step
        batch = loop.micro_batches(rows)[0]
        flat = batch.inputs["input_ids"].view(-1)[batch.positions + 1]
        shares.append(float((flat == 4).float().mean()))
    assert 0.4 < shares[0] < 0.6 and shares[1] == 1.0


def test_epochs_are_masked_differently_and_a_stopped_run_goes_on():
    sources = {"new": text_rows(6)}
    assert_resumes(lambda listen: Run({"lora": LoRA(rank=2), "m": MaskedThought()}, sources=sources, listen=listen), 3)


@pytest.mark.parametrize("tied", [True, False])
def test_a_new_token_starts_as_the_mean_and_is_never_written(tied):
    tokenizer, model = tiny.tokenizer(), tiny.llama(tied=tied)
    before = model.get_input_embeddings().weight.detach().clone()
    head = model.get_output_embeddings().weight.detach().clone()
    random_state = torch.get_rng_state()
    run = Run({"lora": LoRA(rank=2), "m": MaskedThought(mask="<hidden>")}, model=Adapted(model, tokenizer), steps=2)
    assert torch.equal(torch.get_rng_state(), random_state)
    new = tokenizer.convert_tokens_to_ids("<hidden>")
    assert (
        new == len(before) and run.state("m").data["mask"] == new and model.generation_config.suppress_tokens == [new]
    )
    torch.testing.assert_close(model.get_input_embeddings().weight[new], before.mean(0))
    torch.testing.assert_close(model.get_output_embeddings().weight[new], head.mean(0))
    assert torch.equal(model.get_input_embeddings().weight[:new], before) and tokenizer.mask_token == "<|mask|>"
    run.train()
    again = Run(
        {"lora": LoRA(rank=2), "m": MaskedThought(mask="<|mask|>")}, model=Adapted(tiny.llama(), tiny.tokenizer())
    )
    assert again.state("m").data["mask"] == tiny.MASK and again.adapted.model.config.vocab_size == len(before)


def test_bad_masks_are_refused():
    with pytest.raises(MethodError, match="no token 999"):
        Run({"lora": LoRA(rank=2), "m": MaskedThought(mask=999)})
    with pytest.raises(MethodError, match="no tokenizer"):
        Run({"lora": LoRA(rank=2), "m": MaskedThought(mask="<hidden>")})
