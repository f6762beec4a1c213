"""sentence-similarity: texts become vectors, near for what belongs together (a bi-encoder, for search and comparison).

An encoder without a head (`AutoModel`), whose states are pooled as the folder's own sentence-transformers files say, by
their mean otherwise (`models/pooling.py`). Rows, by the names that sentence-transformers gives their columns, and their
losses (`pieces/similarity.py`):

- `anchor` (or `query`), `positive`, with `negative`, `negatives` or `negative_1` ... where there are hard ones:
  in-batch negatives, one loss an anchor. Every other row's positive and negatives are an anchor's negatives, of the
  whole optimizer step: however a step is split into micro-batches, and when memory runs out, the loss is the same. A
  step holds the rows that `train.batch_tokens` lets it; texts that say the same are never each other's negatives.
- `sentence1`, `sentence2`, `score`: CoSENT, the order of the scores. The method `similarity` takes another loss or
  another scale.

A row's tokens are those of all its texts. Each text may have `data.max_length` tokens, and is cut there as
sentence-transformers cuts it (`truncation: drop` leaves such rows out). `keep` takes rows of one `text`: drift is read
on these.

Errors: RowProblem for a row with neither a positive nor a score, DataError where kept text is trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from tunewright.contract.batch import Batch, Loss, Outputs, Row
from tunewright.contract.metric import Ranking
from tunewright.contract.records import Record, RowProblem, finite
from tunewright.contract.task import EncodeOptions, Task
from tunewright.errors import DataError, MethodError, RecipeError
from tunewright.models import context
from tunewright.models.arguments import takes
from tunewright.models.pooling import how_of, pooled
from tunewright.pieces import similarity
from tunewright.tasks._texts import asked_by, key_of, positive_and_negatives, text_in, texts_of
from tunewright.tasks.base import epochs_of, pad

PAIR, SCORED, TEXT = "positive-pair", "scored-pair", "embedded"
"""Kinds of rows (`fields["kind"]`)."""
WASTE = 0.8
"""Texts are read in two groups, short and long, where that leaves this share of the padded tokens or less."""


class SentenceSimilarity(Task):
    """`input_ids` are those of all texts, one after the other; `fields["lengths"]` says where each ends.

    `fields`: `keys` (equal for texts that say the same), `target` (the score; 1.0 of a pair), `text` and `reference`
    (the first text, and the positive or the score), `tail` (how many tokens the tokenizer puts behind a text).
    """

    name: ClassVar[str] = "sentence-similarity"
    auto_class: ClassVar[str] = "AutoModel"
    embeds: ClassVar[bool] = True
    couples: ClassVar[Literal["token", "batch"]] = "batch"
    unit: ClassVar[str] = "nats per row"

    def encode(self, record: Record, tokenizer: Any, options: EncodeOptions) -> Row:
        """Encode a pair, a triplet, two scored sentences or, of kept text, one text."""
        kind, texts, target = _texts(record, options)
        read = [list(tokenizer(text, verbose=False, truncation=False)["input_ids"]) for text in texts]
        special = set(tokenizer.all_special_ids)
        fields: dict[str, Any] = {
            "kind": kind,
            "lengths": [len(ids) for ids in read],
            "keys": [key_of(text) for text in texts],
            "target": target,
            "tail": int(read[0][-1] in special) if read[0] else 0,
            "text": texts[0],
            "reference": texts[1] if kind == PAIR else repr(target) if kind == SCORED else "",
        }
        if not all(read):
            raise RowProblem("text", "the tokenizer gives a text no token", "take the row out")
        return Row(record.id, record.source, [t for ids in read for t in ids], [1.0], fields=fields)

    def collate(
        self, rows: Sequence[Row], packed: bool = False, *, epochs: Sequence[int] | None = None, seed: int = 0
    ) -> Batch:
        """Padded ids and mask [N, L]: all texts of the first row, then those of the second. One target a row.

        `fields`: `texts` [R] how many a row has, `keys` [N], `score` [R] (NaN: the row has none), `sequences` [N].
        """
        sequences = [ids for row in rows for ids in texts_of(row)]
        ids, mask = pad(sequences)
        texts = torch.tensor([len(row.fields["lengths"]) for row in rows], dtype=torch.long)
        scores = [row.fields["target"] if row.fields["kind"] == SCORED else float("nan") for row in rows]
        return Batch(
            inputs={"input_ids": ids, "attention_mask": mask},
            labels=torch.zeros(len(rows), dtype=torch.long),
            weights=torch.tensor([row.weights[0] for row in rows], dtype=torch.float32),
            rows=torch.arange(len(rows)),
            row_ids=[row.id for row in rows],
            sources=[row.source for row in rows],
            tokens=int(mask.sum()),
            epochs=epochs_of(rows, epochs),
            fields={
                "prompt_lengths": mask.sum(1),
                "texts": texts,
                "keys": torch.tensor([k for row in rows for k in row.fields["keys"]], dtype=torch.long),
                "score": torch.tensor(scores, dtype=torch.float32),
                "sequences": torch.repeat_interleave(torch.arange(len(rows)), texts),
            },
        )

    def forward(self, model: nn.Module, batch: Batch, *, hidden: bool = False) -> Outputs:
        """`embeddings` [N, D] of all texts; `features` [R, D] are each row's first."""
        inputs, how = dict(batch.inputs), how_of(getattr(model, "config", None))
        mask, padding = inputs["attention_mask"], getattr(model.config, "pad_token_id", None)  # type: ignore[union-attr]
        if padding is not None:
            inputs["input_ids"] = inputs["input_ids"].masked_fill(mask == 0, padding)
        more: dict[str, Any] = {"output_hidden_states": True} if hidden else {}
        if takes(model, "use_cache"):
            more["use_cache"] = False
        now, raw = context.of_batch(batch), None
        groups = [] if hidden or context.reads_rows(model) else _by_length(mask)
        if groups:
            parts = []
            for at in groups:
                longest = int(mask[at].sum(1).max())
                some = {name: value[at, :longest] for name, value in inputs.items()}
                with context.reading(None):
                    states = model(**some, **more).last_hidden_state
                parts.append(pooled(states, some["attention_mask"], how))
            embeddings = torch.cat(parts)[torch.cat(groups).argsort()]
        else:
            with context.reading(now):
                raw = model(**inputs, **more)
            embeddings = pooled(raw.last_hidden_state, mask, how)
        texts = batch.fields["texts"]
        return Outputs(
            _none,
            batch.labels,
            log_probs=_none,
            hidden=raw.hidden_states if hidden and raw is not None else None,
            features=embeddings[texts.cumsum(0) - texts],
            embeddings=embeddings,
            raw=raw,
            present=now,
        )

    def loss(self, outputs: Outputs, batch: Batch) -> Loss:
        """In-batch negatives of rows with a positive, CoSENT of rows with a score: one value a row, in nats."""
        return similarity_loss(outputs, batch)

    def predict(self, outputs: Outputs, batch: Batch, rows: Sequence[Row]) -> list[tuple[str, str]]:
        """(cosine, score) of each row. RecipeError for a row without a score."""
        if bad := next((r for r in rows if r.fields["kind"] != SCORED), None):
            raise _no_metric(bad, "has no score", "ndcg@10, or another one of rankings")
        assert outputs.embeddings is not None
        said = similarity.cosines(outputs.embeddings, batch.fields["texts"], batch.rows).tolist()
        return [(repr(value), str(row.fields["reference"])) for value, row in zip(said, rows, strict=True)]

    def rank(self, outputs: Outputs, batch: Batch, rows: Sequence[Row]) -> list[Ranking]:
        """Each anchor among the positives and negatives of all rows, every text once, itself left out; right are the
        positives of all rows that have this anchor. RecipeError for a row without a positive.
        """
        if bad := next((r for r in rows if r.fields["kind"] != PAIR), None):
            raise _no_metric(bad, "has no positive", "spearman")
        assert outputs.embeddings is not None
        texts, keys = batch.fields["texts"].tolist(), batch.fields["keys"].tolist()
        unit = normalize(outputs.embeddings.double(), dim=-1).cpu().numpy()
        first = np.cumsum([0, *texts[:-1]])
        there: dict[int, int] = {}  # key -> the place of the text that stands for all that say the same
        right: dict[int, set[int]] = {}
        said: dict[int, str] = {}
        for at, count, row in zip(first.tolist(), texts, rows, strict=True):
            for place in range(at + 1, at + count):
                there.setdefault(keys[place], place)
            right.setdefault(keys[at], set()).add(keys[at + 1])
            said[keys[at + 1]] = str(row.fields["reference"])
        names, places = np.array(list(there), dtype=np.int64), list(there.values())
        out = []
        for at, row in zip(first.tolist(), rows, strict=True):
            others = names != keys[at] if keys[at] not in right[keys[at]] else np.ones(len(names), dtype=bool)
            scores = (unit[places] @ unit[at])[others]
            wanted = np.isin(names[others], list(right[keys[at]])).astype(np.float64)
            best = int(names[others][scores.argmax()])
            out.append(
                Ranking(
                    scores,
                    wanted,
                    said.get(best, "(a negative)"),
                    str(row.fields["reference"]),
                    query=keys[at],
                )
            )
        return out

    def default_metric(self, rows: Sequence[Row]) -> str:
        """`spearman` where all rows have a score, `ndcg@10` where all have a positive, else `loss`."""
        kinds = {row.fields["kind"] for row in rows}
        return {(SCORED,): "spearman", (PAIR,): "ndcg@10"}.get(tuple(kinds), "loss")


def similarity_loss(
    outputs: Outputs, batch: Batch, scale: float | None = None, scored: Literal["cosent", "cosine"] = "cosent"
) -> Loss:
    """A value a row [R]. DataError for a row that has neither a positive nor a score."""
    assert outputs.embeddings is not None
    texts, keys, score = (batch.fields[name] for name in ("texts", "keys", "score"))
    alone, with_score = (texts == 1).nonzero()[:, 0], (~score.isnan()).nonzero()[:, 0]
    if len(alone):
        raise DataError(
            "a text alone has nothing that it should be near to",
            where=batch.row_ids[int(alone[0])],
            remedy="do not replay kept text here: write rows with anchor and positive",
        )
    factor = similarity.SCALE if scale is None else scale
    pairs = score.isnan().nonzero()[:, 0]
    value = outputs.embeddings.new_zeros(len(texts), dtype=torch.float32)
    if len(pairs):
        value = value.index_put((pairs,), similarity.in_batch_negatives(outputs.embeddings, texts, keys, pairs, factor))
    if len(with_score):
        said, wanted = similarity.cosines(outputs.embeddings, texts, with_score), score[with_score]
        how = similarity.cosent(said, wanted, factor) if scored == "cosent" else similarity.squared_error(said, wanted)
        value = value.index_put((with_score,), how)
    return Loss(value)


def _texts(record: Record, options: EncodeOptions) -> tuple[str, list[str], float]:
    """Kind, texts and target of a record. RowProblem where it is none of the three."""
    if options.kept and "text" in record:
        return TEXT, [text_in(record, "text")], 0.0
    if "sentence1" in record or "sentence2" in record:
        texts = [text_in(record, name) for name in ("sentence1", "sentence2")]
        if (score := finite(record.get("score"))) is None:
            raise RowProblem(
                "score", f"{record.get('score')!r:.60} is no number", "write how alike the two are, as 0.8"
            )
        return SCORED, texts, score
    asked = asked_by(record)
    if asked not in record or "positive" not in record:
        has = ", ".join(sorted(record)) or "nothing"
        raise RowProblem(
            "positive" if asked in record else "anchor",
            f"the row ({has}) has neither an anchor with its positive nor two sentences with a score",
            "name the columns in the source: columns: {anchor: question, positive: answer}",
        )
    positive, more = positive_and_negatives(record)
    return PAIR, [text_in(record, asked), positive, *more], 1.0


def _by_length(mask: Tensor) -> list[Tensor]:
    """Places of the short and of the long texts, where reading them apart spares padding; none where it does not."""
    lengths, order = mask.sum(1).sort()
    count, longest = len(lengths), int(lengths[-1])
    cut = torch.arange(1, count, device=mask.device)
    if not len(cut):
        return []
    area = cut * lengths[:-1] + (count - cut) * longest
    best = int(area.argmin())
    if int(area[best]) > WASTE * count * longest:
        return []
    return [order[: best + 1], order[best + 1 :]]


def _no_metric(row: Row, what: str, other: str) -> RecipeError:
    return RecipeError(f"the row {row.id} {what}", where="measurement.metric", remedy=f"write metric: {other}")


def _none() -> Tensor:
    raise MethodError(
        "vectors of texts have no likelihoods",
        remedy="take a method that serves sentence-similarity, or none: the task has a loss",
    )
