"""What is kept: the mean nats per token on general text, by document, so that forgetting has a figure of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import PreTrainedModel

from tunewright.contract.batch import Row
from tunewright.contract.task import Task
from tunewright.errors import DataError, RecipeError, did_you_mean
from tunewright.measure._kv import batches_by_length
from tunewright.measure._mode import device_of, measuring
from tunewright.measure.intervals import Interval, bootstrap_mean, paired_difference
from tunewright.tasks._parts import DETECTION, FORECASTING, PLAYING


@dataclass(frozen=True)
class DocumentLoss:
    """One document: the sum of its tokens' negative log-probabilities in `nats`, over how many `tokens` and `bytes`."""

    id: str
    source: str
    nats: float
    tokens: float
    bytes: int


@dataclass(frozen=True)
class _Figure:
    per: Callable[[DocumentLoss], float]
    of: Callable[[float], float]


FIGURES: dict[str, _Figure] = {
    "loss": _Figure(lambda d: d.tokens, lambda nats: nats),
    "perplexity": _Figure(lambda d: d.tokens, math.exp),
    "bits_per_byte": _Figure(lambda d: float(d.bytes), lambda nats: nats / math.log(2)),
}
"""What a kept text may be summed up as. `loss`: nats per token. `bits_per_byte` compares models of other tokenizers."""


def windows(row: Row, max_length: int) -> Iterator[Row]:
    """Pieces of at most `max_length` tokens, each beginning with the last token of the one before.

    So every token but the document's first is predicted exactly once, from at most `max_length - 1` tokens before it.
    """
    if max_length < 2:
        raise ValueError("a window needs at least 2 tokens")
    last = len(row.input_ids) - 1
    for start in range(0, max(1, last), max_length - 1):
        end = start + max_length
        yield replace(row, input_ids=row.input_ids[start:end], weights=row.weights[start:end])


def document_losses(
    model: PreTrainedModel,
    tokenizer: Any,
    task: Task,
    rows: Sequence[Row],
    *,
    max_length: int = 1024,
    batch_tokens: int = 2048,
    packed: bool = False,
) -> list[DocumentLoss]:
    """The loss of each row (a document, of any length for causal models). `packed`: padding-free forwards.

    Bytes are those of the text that is predicted, special tokens left out. Raises DataError when nothing is predicted.
    """
    how: dict[str, Any] = {"max_length": max_length, "batch_tokens": batch_tokens, "packed": packed}
    return check_predicts(losses_by_document(model, tokenizer, task, rows, **how))


def check_predicts(documents: list[DocumentLoss]) -> list[DocumentLoss]:
    """The documents themselves; DataError where none has a token to predict."""
    if not any(d.tokens for d in documents):
        raise DataError("no document has a token to predict", where="keep", remedy="give texts of at least two tokens")
    return documents


def losses_by_document(
    model: PreTrainedModel,
    tokenizer: Any,
    task: Task,
    rows: Sequence[Row],
    *,
    max_length: int = 1024,
    batch_tokens: int = 2048,
    packed: bool = False,
) -> list[DocumentLoss]:
    """`document_losses` of some of the documents, of which none may have anything to predict."""
    pieces = [(i, w) for i, row in enumerate(rows) for w in (windows(row, max_length) if task.packs else [row])]
    nats, tokens = torch.zeros(len(rows), dtype=torch.float64), torch.zeros(len(rows), dtype=torch.float64)
    with measuring(model):
        for some in batches_by_length([w.size for _, w in pieces], batch_tokens, 1 << 30 if packed else 64):
            batch = task.collate([pieces[k][1] for k in some], packed)
            if not len(batch.labels):
                continue
            batch = batch.to(device_of(model))
            outputs = task.forward(model, batch)
            lossy = task.draws or any(task.is_a(name) for name in (FORECASTING, DETECTION, PLAYING))
            values = -task.loss(outputs, batch).value if lossy else outputs.log_probs()
            log_probs, batch = values.double().cpu(), batch.to("cpu")
            owner = torch.tensor([pieces[k][0] for k in some])[batch.rows]
            nats.index_add_(0, owner, -log_probs * batch.weights)
            tokens.index_add_(0, owner, batch.weights.double())
    return [
        DocumentLoss(row.id, row.source, n, t, _bytes(tokenizer, row))
        for row, n, t in zip(rows, nats.tolist(), tokens.tolist(), strict=True)
    ]


def _bytes(tokenizer: Any, row: Row) -> int:
    if tokenizer is None or row.one_target:  # of a row with one class no text is predicted
        return 0
    special = set(tokenizer.all_special_ids)
    inside = [t for t, w in zip(row.input_ids[1:], row.weights[1:], strict=True) if w > 0 and t not in special]
    return len(tokenizer.decode(inside, clean_up_tokenization_spaces=False).encode())


def _figure(metric: str) -> _Figure:
    if metric not in FIGURES:
        raise RecipeError(
            f"kept text has no figure called '{metric}'", where="keep.metric", remedy=did_you_mean(metric, FIGURES)
        )
    return FIGURES[metric]


def kept(documents: Sequence[DocumentLoss], metric: str = "loss", *, seed: int = 0) -> Interval:
    """The figure over documents (every token counts alike) and its interval, documents resampled whole."""
    figure = _figure(metric)
    per = [figure.per(d) for d in documents]
    if not sum(per):
        raise DataError(f"'{metric}' has nothing to divide by", where="keep", remedy="give text, or write metric: loss")
    some = [(d.nats / p, p) for d, p in zip(documents, per, strict=True) if p]
    mean = bootstrap_mean([v for v, _ in some], weights=[p for _, p in some], unit="document", seed=seed)
    return mean.map(figure.of)


def kept_difference(before: Sequence[DocumentLoss], after: Sequence[DocumentLoss], *, seed: int = 0) -> Interval:
    """Loss after minus loss before in nats per token, paired by document. ValueError when the documents differ."""
    if [(d.id, d.tokens) for d in before] != [(d.id, d.tokens) for d in after]:
        raise ValueError("a paired difference needs the same documents, in the same order")
    sides = [[d.nats / d.tokens for d in side if d.tokens] for side in (before, after)]
    return paired_difference(*sides, weights=[d.tokens for d in before if d.tokens], unit="document", seed=seed)
