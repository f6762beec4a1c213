"""text-ranking: a query and a passage are read together, and the better the passage the higher the number (a
cross-encoder).

A sequence classifier with one output (`num_labels` 1), as sentence-transformers' CrossEncoder has it: the head is drawn
afresh where the folder has none. Rows and their losses, with s the number and sums over a row's passages:

- `query` (or `anchor`), `positive`, and `negative`, `negatives` or `negative_1` ...: the softmax over the row's list,
  -log [ exp(s(positive)) / sum exp(s) ], one a row                                                            [nats]
- `query`, `passage`, `label` from 0 to 1: binary cross-entropy of sigmoid(s), one a row                       [nats]

A ranking is measured by query: the passages that any evaluated row has for it, judged by `label` (a positive is 1, a
negative 0). Queries without both a right and a wrong passage have nothing to be ranked and do not count. Each query and
passage may have `data.max_length` tokens together, and the passage is cut at its end.

Errors: RowProblem for a list without a negative and for a label that is no grade. Source: Cao et al. 2007 (ListNet's
top-one probabilities, of which this is the case of one right passage); Nogueira and Cho 2019 (arXiv:1901.04085).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from tunewright.contract.batch import Batch, Loss, Outputs, Row
from tunewright.contract.metric import Ranking
from tunewright.contract.records import Record, RowProblem, finite
from tunewright.contract.task import EncodeOptions, Task
from tunewright.errors import MethodError
from tunewright.tasks._pooled import classifier_outputs
from tunewright.tasks._texts import asked_by, cut_at, key_of, positive_and_negatives, text_in, texts_of
from tunewright.tasks.base import epochs_of, pad

LIST, JUDGED = "ranked-list", "judged-passage"
"""Kinds of rows (`fields["kind"]`)."""


class TextRanking(Task):
    """`input_ids` are those of the query with each passage, one after the other; `fields["lengths"]` says where each
    ends.

    `fields`: `types` (token types, where the tokenizer has them), `labels` and `keys` of the passages, `query` (equal
    for queries that say the same), `passages`, `text` and `reference` (the query, and the right passage or the label),
    `target` (the label; 1.0 of a list), `tail` (how many tokens the tokenizer puts behind a passage).
    """

    name: ClassVar[str] = "text-ranking"
    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    scores: ClassVar[bool] = True
    unit: ClassVar[str] = "nats per row"

    def encode(self, record: Record, tokenizer: Any, options: EncodeOptions) -> Row:
        """Encode a list of passages with their query, or one passage with its label."""
        kind, query, passages, labels = _columns(record)
        read = [tokenizer(query, passage, verbose=False, truncation=False) for passage in passages]
        ids = [list(r["input_ids"]) for r in read]
        fields: dict[str, Any] = {
            "kind": kind,
            "lengths": [len(i) for i in ids],
            "labels": labels,
            "keys": [key_of(passage) for passage in passages],
            "query": key_of(query),
            "target": labels[0],
            "tail": int(ids[0][-1] in set(tokenizer.all_special_ids)) if ids[0] else 0,
            "text": query,
            "passages": passages,
            "reference": passages[0] if kind == LIST else f"{labels[0]:g}",
        }
        if "token_type_ids" in read[0]:
            fields["types"] = [t for r in read for t in r["token_type_ids"]]
        return Row(record.id, record.source, [t for i in ids for t in i], [1.0], fields=fields)

    def collate(
        self, rows: Sequence[Row], packed: bool = False, *, epochs: Sequence[int] | None = None, seed: int = 0
    ) -> Batch:
        """Padded ids and mask [N, L]: all passages of the first row, then those of the second. A target a passage; of a
        list the positive's alone counts.

        `fields`: `texts` [R] how many passages a row has, `label` [N], `listed` [N] whether it stands in a list.
        """
        ids, mask = pad([i for row in rows for i in texts_of(row)])
        inputs = {"input_ids": ids, "attention_mask": mask}
        if all("types" in row.fields for row in rows):
            inputs["token_type_ids"], _ = pad([t for r in rows for t in cut_at(r.fields["types"], r.fields["lengths"])])
        texts = torch.tensor([len(row.fields["lengths"]) for row in rows], dtype=torch.long)
        owner = torch.repeat_interleave(torch.arange(len(rows)), texts)
        weights = [row.weights[0] * (k == 0) for row in rows for k in range(len(row.fields["lengths"]))]
        return Batch(
            inputs=inputs,
            labels=torch.zeros(len(ids), dtype=torch.long),
            weights=torch.tensor(weights, dtype=torch.float32),
            rows=owner,
            row_ids=[row.id for row in rows],
            sources=[row.source for row in rows],
            tokens=int(mask.sum()),
            epochs=epochs_of(rows, epochs),
            fields={
                "prompt_lengths": mask.sum(1),
                "texts": texts,
                "label": torch.tensor([x for row in rows for x in row.fields["labels"]], dtype=torch.float32),
                "listed": torch.tensor([row.fields["kind"] == LIST for row in rows])[owner],
                "sequences": owner,
            },
        )

    def forward(self, model: nn.Module, batch: Batch, *, hidden: bool = False) -> Outputs:
        """`scores` [N] and `logits` [N, 1]; `features` [R, D] are what the head reads of each row's first passage."""
        inputs, config = dict(batch.inputs), getattr(model, "config", None)
        if getattr(config, "type_vocab_size", 0) < 2:
            inputs.pop("token_type_ids", None)
        if (padding := getattr(config, "pad_token_id", None)) is not None:
            inputs["input_ids"] = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, padding)
        out, texts = classifier_outputs(model, batch, inputs, hidden=hidden), batch.fields["texts"]
        return Outputs(
            out.logits,
            batch.labels,
            log_probs=_none,
            hidden=out.hidden,
            features=None if out.features is None else out.features[texts.cumsum(0) - texts],
            head=out.head,
            scores=out.logits[:, 0].float(),
            raw=out.raw,
            present=out.present,
        )

    def loss(self, outputs: Outputs, batch: Batch) -> Loss:
        """Of a list at its positive, of a judged passage at its own target; 0 at a list's negatives."""
        scores, texts, owner = outputs.scores, batch.fields["texts"], batch.rows
        assert scores is not None
        start, along = texts.cumsum(0) - texts, torch.arange(int(texts.max()), device=texts.device)
        places, there = start[:, None] + along, along < texts[:, None]
        lists = scores[places.clamp(max=len(scores) - 1)].masked_fill(~there, -torch.inf)
        chosen = torch.logsumexp(lists, 1)[owner] - scores
        first = torch.arange(len(scores), device=owner.device) == start[owner]
        judged = binary_cross_entropy_with_logits(scores, batch.fields["label"], reduction="none")
        value = torch.where(batch.fields["listed"], torch.where(first, chosen, torch.zeros_like(chosen)), judged)
        return Loss(value)

    def rank(self, outputs: Outputs, batch: Batch, rows: Sequence[Row]) -> list[Ranking]:
        """Each row's query over the passages that any row has for it, each once, with their labels."""
        assert outputs.scores is not None
        found: dict[int, dict[int, tuple[float, float, str]]] = {}
        by_row = outputs.scores.double().cpu().split(batch.fields["texts"].tolist())
        for row, scores in zip(rows, by_row, strict=True):
            own, fields = found.setdefault(row.fields["query"], {}), row.fields
            told = zip(fields["keys"], scores.tolist(), fields["labels"], fields["passages"], strict=True)
            for key, score, label, text in told:
                own.setdefault(key, (score, label, text))
        return [_ranking(row.fields["query"], list(found[row.fields["query"]].values())) for row in rows]

    def default_metric(self, rows: Sequence[Row]) -> str:
        """`ndcg@10` where some query has a right passage and a wrong one, else `loss`."""
        labels: dict[int, set[float]] = {}
        for row in rows:
            labels.setdefault(row.fields["query"], set()).update(row.fields["labels"])
        return "ndcg@10" if any(len(own) > 1 for own in labels.values()) else "loss"


def _ranking(query: int, found: Sequence[tuple[float, float, str]]) -> Ranking:
    scores, labels, texts = (list(part) for part in zip(*found, strict=True))
    best, right = int(np.argmax(scores)), int(np.argmax(labels))
    return Ranking(np.array(scores), np.array(labels), str(texts[best]), str(texts[right]), query)


def _columns(record: Record) -> tuple[str, str, list[str], list[float]]:
    """Kind, query, passages and their labels of a record. RowProblem where it is neither a list nor a judged
    passage."""
    asked = asked_by(record)
    if asked in record and "positive" in record:
        positive, negatives = positive_and_negatives(record)
        if not negatives:
            raise RowProblem(
                "negatives",
                "a list with one passage has nothing to be ranked",
                "add passages that are wrong: negative, or a list of negatives; or give rows of passage and label",
            )
        return LIST, text_in(record, asked), [positive, *negatives], [1.0, *(0.0 for _ in negatives)]
    if asked in record and "passage" in record:
        label = finite(record.get("label"))
        if label is None or not 0 <= label <= 1:
            what = f"{record.get('label')!r:.60} is no grade from 0 to 1"
            raise RowProblem("label", what, "write 0 or 1, or divide grades by the highest")
        return JUDGED, text_in(record, asked), [text_in(record, "passage")], [label]
    has = ", ".join(sorted(record)) or "nothing"
    raise RowProblem(
        "passage" if asked in record else "query",
        f"the row ({has}) has neither a query with its positive and negatives nor a passage with a label",
        "name the columns in the source: columns: {query: question, passage: text, label: relevance}",
    )


def _none() -> Tensor:
    raise MethodError(
        "a ranker gives one number a passage and no likelihoods",
        remedy="take a method that serves text-ranking, or none: the task has a loss",
    )
