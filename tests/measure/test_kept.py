from __future__ import annotations

import math

import pytest
import torch

from tests import tiny
from tests.measure.making import text_rows
from tunewright.contract.batch import Row
from tunewright.errors import DataError, RecipeError
from tunewright.measure.kept import document_losses, kept, kept_difference, windows
from tunewright.tasks import get_task

CAUSAL = get_task("text-generation")


def test_loss_is_the_librarys_over_all_tokens():
    model, rows = tiny.llama(), text_rows(7)
    got = document_losses(model, tiny.tokenizer(), CAUSAL, rows, batch_tokens=50)
    nats, tokens = 0.0, 0
    for row, d in zip(rows, got, strict=True):
        ids = torch.tensor([list(row.input_ids)])
        loss, n = model(ids, labels=ids).loss.item(), ids.shape[1] - 1
        assert d.nats == pytest.approx(loss * n, rel=1e-5) and d.tokens == n and d.id == row.id
        nats, tokens = nats + loss * n, tokens + n
    mean = kept(got)
    assert (
        mean.value == pytest.approx(nats / tokens, rel=1e-5)
        and mean.unit == "document"
        and mean.n == 7
        and mean.low < mean.value < mean.high
    )


def test_every_token_is_predicted_once_in_windows():
    row = Row("d", "s", list(range(20, 43)), [1.0] * 23)
    parts = list(windows(row, 8))
    assert [len(p.input_ids) for p in parts] == [8, 8, 8, 2]
    assert [t for p in parts for t in p.input_ids[1:]] == list(range(21, 43))
    assert all(a.input_ids[-1] == b.input_ids[0] for a, b in zip(parts, parts[1:], strict=False))
    assert [len(p.input_ids) for p in windows(row, 23)] == [23]
    model = tiny.llama()
    (got,) = document_losses(model, tiny.tokenizer(), CAUSAL, [row], max_length=8)
    want = sum(
        model(torch.tensor([p.input_ids]), labels=torch.tensor([p.input_ids])).loss.item() * (len(p.input_ids) - 1)
        for p in parts
    )
    assert got.nats == pytest.approx(want, rel=1e-5) and got.tokens == 22


def test_figures_and_their_units():
    rows, tokenizer = text_rows(6), tiny.tokenizer()
    docs = document_losses(tiny.gpt2(), tokenizer, CAUSAL, rows)
    text = tokenizer.decode(rows[0].input_ids[1:], skip_special_tokens=True)
    assert docs[0].bytes == len(text.encode())
    loss = kept(docs)
    assert kept(docs, "perplexity").value == pytest.approx(math.exp(loss.value)) and kept(
        docs, "perplexity"
    ).high == pytest.approx(math.exp(loss.high))
    assert kept(docs, "bits_per_byte").value == pytest.approx(
        sum(d.nats for d in docs) / sum(d.bytes for d in docs) / math.log(2)
    )
    with pytest.raises(RecipeError, match="perplexity"):
        kept(docs, "perplexty")


def test_paired_by_document():
    rows = text_rows(9)
    a, b = (document_losses(tiny.llama(seed), tiny.tokenizer(), CAUSAL, rows) for seed in (0, 1))
    d = kept_difference(a, b)
    assert d.value == pytest.approx(kept(b).value - kept(a).value) and kept_difference(a, a).high == 0
    with pytest.raises(ValueError, match="same documents"):
        kept_difference(a, b[1:])


def test_nothing_to_predict_is_refused():
    with pytest.raises(DataError, match="no document"):
        document_losses(tiny.llama(), tiny.tokenizer(), CAUSAL, [Row("d", "s", [9], [1.0])])
