"""Where a query's right texts stand among all texts of the evaluated rows, and rows whose loss reads the others.

Every text is read in batches; what is compared is compared over all rows, so that a figure does not depend on how they
were batched. A query that several rows have counts once: the others' results weigh 0, as do queries without both a
right and a wrong text, and an interval resamples queries. nDCG is scikit-learn's, ranks are scipy's; texts of one score
share the last of their ranks, so that a model that tells nothing apart is not right by the order of its rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from tunewright.contract.batch import Batch, Outputs, Row, merged
from tunewright.contract.metric import Metric, Ranking
from tunewright.contract.task import Task
from tunewright.errors import DataError
from tunewright.measure._kv import batches_by_length
from tunewright.measure._mode import device_of, measuring
from tunewright.measure.rows import RowResult


def ndcg(k: int) -> Callable[[Ranking], float]:
    """Normalised discounted cumulative gain of the first k texts (Jarvelin and Kekalainen 2002)."""

    def of(ranking: Ranking) -> float:
        from sklearn.metrics import ndcg_score

        return float(ndcg_score([ranking.relevance], [ranking.scores], k=k))

    return of


def _ranks(ranking: Ranking) -> np.ndarray:
    """The ranks, from 1, of the texts that are relevant."""
    from scipy.stats import rankdata

    ranks: np.ndarray = rankdata(-ranking.scores, method="max")[ranking.relevance > 0]
    return ranks


def recall(k: int) -> Callable[[Ranking], float]:
    """The share of a query's right texts that are among the first k."""
    return lambda ranking: float((_ranks(ranking) <= k).mean())


def reciprocal_rank(ranking: Ranking) -> float:
    """1 / the rank of the first right text."""
    return float(1 / _ranks(ranking).min())


def says_right(ranking: Ranking) -> float:
    """1 where what was found for the query is what is right of it."""
    return float(ranking.answer == ranking.reference)


def read_together(
    model: Any, task: Task, rows: Sequence[Row], batch_tokens: int = 2048
) -> tuple[list[int], Batch, Outputs]:
    """(order, batch, outputs): rows read in batches by length, and laid together in that order."""
    order, batches, read = list[int](), list[Batch](), list[Outputs]()
    with measuring(model):
        for indices in batches_by_length([r.size for r in rows], batch_tokens, 64):
            batch = task.collate([rows[i] for i in indices]).to(device_of(model))
            outputs = task.forward(model, batch)
            order += indices
            batches.append(batch.replace(inputs={}))
            read.append(outputs)
    whole = merged(batches)

    def laid(name: str) -> torch.Tensor | None:
        parts = [getattr(o, name) for o in read]
        return None if any(p is None for p in parts) else torch.cat(parts)

    last = read[-1]
    together = Outputs(
        last._logits,
        whole.labels,
        log_probs=last._log_probs,
        features=laid("features"),
        embeddings=laid("embeddings"),
        scores=laid("scores"),
    )
    return order, whole, together


def losses(model: Any, task: Task, rows: Sequence[Row], batch_tokens: int = 2048) -> list[RowResult]:
    """The loss of each row beside all others."""
    order, batch, outputs = read_together(model, task, rows, batch_tokens)
    with torch.inference_mode():
        values = task.loss(outputs, batch).value.tolist()
    found = dict(zip(order, values, strict=True))
    return [
        RowResult(
            id=row.id,
            source=row.source,
            prompt=str(row.fields.get("text", "")),
            reference=str(row.fields.get("reference", "")),
            score=found[i],
            weight=row.weights[0],
        )
        for i, row in enumerate(rows)
    ]


def rankings(model: Any, task: Task, rows: Sequence[Row], metric: Metric, batch_tokens: int = 2048) -> list[RowResult]:
    """The metric of each row's query among all texts of the rows."""
    assert metric.of_ranking is not None
    order, batch, outputs = read_together(model, task, rows, batch_tokens)
    made = task.rank(outputs, batch, [rows[i] for i in order])
    found = dict(zip(order, made, strict=True))
    out, seen = list[RowResult](), set[int]()
    for i, row in enumerate(rows):
        ranking = found[i]
        told = len(set(ranking.relevance.tolist())) > 1  # else there is nothing to be ranked
        out.append(
            RowResult(
                id=row.id,
                source=row.source,
                prompt=str(row.fields.get("text", "")),
                answer=ranking.answer,
                reference=ranking.reference,
                score=metric.of_ranking(ranking) if told else 0.0,
                weight=float(told and ranking.query not in seen),
            )
        )
        seen.add(ranking.query)
    if not any(r.weight for r in out):
        raise DataError(
            "no query of the evaluated rows has both something right and something wrong",
            where="data.eval",
            remedy="give more rows, or write metric: loss",
        )
    return out
