"""token-classification: a class a word (names, parts of speech), read from its first piece.

Rows have `tokens` (words) and as many tags, as `tags`, `ner_tags` or `labels`: names, or ids of `options.labels`. The
words are read as one text with a space between two, so that every tokenizer sees them as it saw text in pre-training,
and pieces are laid to words by their offsets. The first piece of each word carries its class and counts in the loss;
all others are -100 and do not (Devlin et al. 2018, section 5.3). Tags with a prefix (B-, I-, E-, S-) name spans, which
`span_f1` counts; others are counted one by one (`mean_token_accuracy`).

Errors: RowProblem for words and tags that are not as many, for no known tag, and for a word that no piece begins.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from tunewright.contract.batch import Batch, Outputs, Row
from tunewright.contract.records import Record, RowProblem
from tunewright.contract.task import EncodeOptions, Task
from tunewright.pieces.means import row_means
from tunewright.tasks.base import epochs_of, label_id, pad, read_head

TAGS = ("tags", "ner_tags", "labels")
"""Columns of tags; the first that a row has is read."""
NO_TARGET = -100
_SPAN = re.compile(r"^[BIESLUM]-.")


class TokenClassification(Task):
    """`fields["targets"]`: a class a piece, -100 where it is no word's first. `weights` are 1 at these, else 0.

    `fields`: `names` of the classes, `reference` the row's tags as a text, `text` its words.
    """

    name: ClassVar[str] = "token-classification"
    auto_class: ClassVar[str] = "AutoModelForTokenClassification"
    labelled: ClassVar[bool] = True
    per_token: ClassVar[bool] = True

    def label_values(self, record: Record) -> Sequence[Any]:
        """The tags of a row."""
        column = tag_column(record)
        tags = record[column] if column else None
        return tags if isinstance(tags, list) else ()

    def encode(self, record: Record, tokenizer: Any, options: EncodeOptions) -> Row:
        """Encode words and tags. Tags are names or ids of `options.labels`."""
        return self._encode([record], tokenizer, options)[0]

    def encode_many(self, records: Sequence[Record], tokenizer: Any, options: EncodeOptions) -> list[Row | Exception]:
        """`encode` each record, with one pass of the tokenizer over all that can be read."""
        out: dict[int, Row | Exception] = {}
        for i, record in enumerate(records):
            try:
                _classes(record, options)
            except Exception as error:  # of one record: the others are encoded all the same
                out[i] = error
        good = [i for i in range(len(records)) if i not in out]
        try:
            made: list[Row | Exception] = [*self._encode([records[i] for i in good], tokenizer, options)]
        except RowProblem:  # of one of them, by its pieces
            made = super().encode_many([records[i] for i in good], tokenizer, options)
        out |= dict(zip(good, made, strict=True))
        return [out[i] for i in range(len(records))]

    def _encode(self, records: Sequence[Record], tokenizer: Any, options: EncodeOptions) -> list[Row]:
        if not records:
            return []
        classes = [_classes(record, options) for record in records]
        texts = [" ".join(record["tokens"]) for record in records]
        if not getattr(tokenizer, "is_fast", False):
            what = f"{type(tokenizer).__name__} does not say which characters a piece stands for"
            raise RowProblem("tokenizer", what, "take a model with a fast tokenizer (tokenizer.json)")
        read = tokenizer(texts, return_offsets_mapping=True, verbose=False)
        rows = []
        for k, (record, known, text) in enumerate(zip(records, classes, texts, strict=True)):
            ids, offsets = read["input_ids"][k], read["offset_mapping"][k]
            targets = [NO_TARGET] * len(ids)
            for at, chosen in zip(_first_pieces(record["tokens"], offsets), known, strict=True):
                targets[at] = chosen
            names = [re.sub(r"\s", "_", n) for n in options.labels or ()]
            fields = {"kind": "tags", "targets": targets, "names": names, "text": text}
            fields["reference"] = " ".join(names[c] for c in known)
            weights = [float(t != NO_TARGET) for t in targets]
            rows.append(Row(record.id, record.source, ids, weights, fields=fields))
        return rows

    def collate(
        self, rows: Sequence[Row], packed: bool = False, *, epochs: Sequence[int] | None = None, seed: int = 0
    ) -> Batch:
        """Padded ids and mask [R, L]; a target a word, whose place is its first piece's."""
        ids, mask = pad([r.input_ids for r in rows])
        at = [(r, t) for r, row in enumerate(rows) for t, weight in enumerate(row.weights) if weight > 0]
        owner, place = (torch.tensor([pair[k] for pair in at], dtype=torch.long) for k in (0, 1))
        return Batch(
            inputs={"input_ids": ids, "attention_mask": mask},
            labels=torch.tensor([rows[r].fields["targets"][t] for r, t in at], dtype=torch.long),
            weights=torch.tensor([rows[r].weights[t] for r, t in at], dtype=torch.float32),
            rows=owner,
            row_ids=[r.id for r in rows],
            sources=[r.source for r in rows],
            tokens=int(mask.sum()),
            positions=owner * ids.shape[1] + place,
            epochs=epochs_of(rows, epochs),
            fields={"prompt_lengths": mask.sum(1)},
        )

    def forward(self, model: nn.Module, batch: Batch, *, hidden: bool = False) -> Outputs:
        """`logits` [S, V] at the words' first pieces; `features` [R, D] are the means of what the head reads there."""
        assert batch.positions is not None
        ran = read_head(model, batch, batch.inputs, hidden=hidden)
        assert ran.read is not None
        features = row_means(ran.read.flatten(0, 1)[batch.positions], batch.rows, len(batch.row_ids))
        return Outputs(
            ran.out.logits.flatten(0, 1)[batch.positions],
            batch.labels,
            hidden=ran.out.hidden_states if hidden else None,
            features=features,
            head=ran.head,
            raw=ran.out,
            present=ran.present,
        )

    def predict(self, outputs: Outputs, batch: Batch, rows: Sequence[Row]) -> list[tuple[str, str]]:
        """(the likeliest tags, the right ones) of each row, a space between two."""
        said: list[list[str]] = [[] for _ in rows]
        for owner, answer in zip(batch.rows.tolist(), outputs.logits.argmax(-1).tolist(), strict=True):
            said[owner].append(rows[owner].fields["names"][answer])
        return [(" ".join(tags), str(row.fields["reference"])) for tags, row in zip(said, rows, strict=True)]

    def default_metric(self, rows: Sequence[Row]) -> str:
        """`span_f1` where the tags name spans, else `mean_token_accuracy`."""
        spans = any(_SPAN.match(name) for row in rows[:1] for name in row.fields["names"])
        return "span_f1" if spans else "mean_token_accuracy"


def tag_column(record: Record) -> str | None:
    """The column of a record's tags; None where it has none."""
    return next((c for c in TAGS if c in record), None)


def _classes(record: Record, options: EncodeOptions) -> list[int]:
    """A class a word. RowProblem where words and tags do not fit."""
    words, column = record.get("tokens"), tag_column(record)
    if not isinstance(words, list) or not words or not all(isinstance(w, str) and w.strip() for w in words):
        remedy = (
            'write ["Ada", "lives", "in", "London"], or name the column in the source: columns: {tokens: your_column}'
        )
        raise RowProblem("tokens", "it is no list of words", remedy)
    if column is None:
        add = f"add {', '.join(TAGS[:-1])} or {TAGS[-1]}"
        remedy = f"{add}, or name its column in the source: columns: {{tags: your_column}}"
        raise RowProblem("tags", "the row has no tags", remedy)
    tags = record[column]
    if not isinstance(tags, list) or len(tags) != len(words):
        has = len(tags) if isinstance(tags, list) else "none"
        raise RowProblem(column, f"{len(words)} words need as many tags, and there are {has}", "write one a word")
    return [label_id(tag, options.labels, field=column) for tag in tags]


def _first_pieces(words: Sequence[str], offsets: Sequence[tuple[int, int]]) -> list[int]:
    """The first piece that holds a character of each word, in their text with a space between two. RowProblem where one
    has none of its own.
    """
    at, start, piece = list[int](), 0, 0
    for word in words:
        end = start + len(word)
        while piece < len(offsets) and (offsets[piece][1] <= start or offsets[piece][0] == offsets[piece][1]):
            piece += 1
        if piece == len(offsets) or offsets[piece][0] >= end or at and at[-1] == piece:
            what = f"the tokenizer gives the word {word[:40]!r} no piece of its own"
            raise RowProblem("tokens", what, "take out words that hold nothing that it reads")
        at.append(piece)
        start = end + 1
    return at
