"""fill-mask: a row's mask depends on seed, epoch and row alone, and has BERT's proportions."""

from __future__ import annotations

import random

import torch

from tests import tiny
from tunewright.contract.records import Record
from tunewright.contract.task import EncodeOptions
from tunewright.tasks import get_task
from tunewright.tasks.fill_mask import draw_mask

TASK = get_task("fill-mask")


def rows():
    t = tiny.tokenizer(encoder=True)
    texts = ["The river rose in 1999 and the town left for the hills.", "a b", "Which support topic is this?"]
    return [TASK.encode(Record({"text": x}, id=f"r:{i}", source="s"), t, EncodeOptions()) for i, x in enumerate(texts)]


def of_row(batch, k):
    chosen = batch.rows == k
    return batch.labels[chosen].tolist(), batch.inputs["input_ids"][k][batch.inputs["attention_mask"][k] == 1].tolist()


def test_a_rows_mask_does_not_depend_on_its_neighbours():
    together, alone = TASK.collate(rows(), epochs=[1, 1, 1], seed=3), TASK.collate(rows()[2:], epochs=[1], seed=3)
    assert of_row(together, 2) == of_row(alone, 0)


def test_another_epoch_or_seed_masks_anew():
    first = TASK.collate(rows(), epochs=[0] * 3, seed=0).inputs["input_ids"]
    assert torch.equal(first, TASK.collate(rows(), epochs=[0] * 3, seed=0).inputs["input_ids"])
    for epoch, seed in [(1, 0), (0, 1)]:
        assert not torch.equal(first, TASK.collate(rows(), epochs=[epoch] * 3, seed=seed).inputs["input_ids"])


def test_special_tokens_are_never_targets_and_every_row_has_one():
    for epoch in range(30):
        batch = TASK.collate(rows(), epochs=[epoch] * 3)
        assert not set(batch.labels.tolist()) & {tiny.CLS, tiny.SEP} and set(batch.rows.tolist()) == {0, 1, 2}
        assert torch.equal(batch.positions // batch.inputs["input_ids"].shape[1], batch.rows)


def test_proportions():
    n = 40_000
    out, places = draw_mask([10] * n, range(n), 1, 300, random.Random(0))
    assert abs(len(places) / n - 0.15) < 0.01
    masked, kept = sum(out[i] == 1 for i in places) / len(places), sum(out[i] == 10 for i in places) / len(places)
    assert abs(masked - 0.8) < 0.02 and abs(kept - 0.1) < 0.02


def test_loss_is_the_cross_entropy_at_masked_places():
    model, batch = tiny.bert(), TASK.collate(rows())
    logits = model(**batch.inputs).logits.flatten(0, 1)[batch.positions]
    expected = torch.nn.functional.cross_entropy(logits, batch.labels, reduction="none")
    assert torch.allclose(TASK.loss(TASK.forward(model, batch), batch).value, expected, atol=1e-5)
