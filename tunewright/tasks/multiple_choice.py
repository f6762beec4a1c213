"""multiple-choice: which of a row's choices is right, by an encoder that reads each of them beside the question.

Rows have the question as `question`, `sent1` or `ctx`, a passage as `context` or `article` where there is one, and the
choices as a list of texts (`choices`, `endings`), as {"text": [...], "label": [...]} (ARC), or as `ending0`, `ending1`
... (SWAG, with their beginning `sent2`). `answerKey`, `label` or `answer` says which is right: by a choice's own label,
its text, its place (0 is the first), or a letter (A is the first). Rows may have different numbers of choices, 2 to 32.

The model reads (question, choice), or (passage, question and choice), as a pair of texts, and gives each pair one
number; the loss is the cross-entropy of the right one among the row's own. What choices cost a causal model by its
likelihoods is measured on rows of text-generation; this task trains a head.

Errors: RowProblem for fewer than two choices, and for an answer that is none of them. Source: Radford et al. 2018,
section 3.3, with a head that reads a pair as transformers' classes have it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, count, pairwise, takewhile
from typing import Any, ClassVar

import torch
from torch import nn

from tunewright.contract.batch import Batch, Outputs, Row
from tunewright.contract.records import Record, RowProblem
from tunewright.contract.task import EncodeOptions, Task
from tunewright.pieces.means import row_means
from tunewright.tasks._passages import NO_SPAN
from tunewright.tasks.base import epochs_of, fill, pad, read_head

MOST = 32
"""Choices of a row, at most: logits are as wide for every row, so that rows of any number can be laid together."""
QUESTIONS, PASSAGES, ANSWERS = ("question", "sent1", "ctx"), ("context", "article"), ("answerKey", "label", "answer")


class MultipleChoice(Task):
    """A row is all its choices, end to end in `input_ids`. `fields`: `lengths`, the tokens of each; `target`, the right
    one's place; `names`, the choices as texts; `types`, the tokenizer's segments, where it has some.
    """

    name: ClassVar[str] = "multiple-choice"
    auto_class: ClassVar[str] = "AutoModelForMultipleChoice"
    outputs: ClassVar[tuple[str, ...]] = ("choice",)
    unit: ClassVar[str] = "nats per row"

    def encode(self, record: Record, tokenizer: Any, options: EncodeOptions) -> Row:
        """Encode a question with each of its choices."""
        question = _text(record, QUESTIONS)
        names, labels = _choices(record)
        right = _answer(record, names, labels)
        if options.template:
            question = fill(options.template, record, answers=ANSWERS, text=question)
        first, begin = question, str(record.get("sent2") or "")
        if passage := next((record[c] for c in PASSAGES if record.get(c)), None):
            first, begin = str(passage), question
        read = tokenizer([first] * len(names), [f"{begin} {name}".strip() for name in names], verbose=False)
        fields = {
            "kind": "choices",
            "text": "\n".join([question, *(f"- {name}" for name in names)]),
            "reference": names[right],
            "target": right,
            "names": names,
            "lengths": [len(ids) for ids in read["input_ids"]],
            "types": [t for kinds in read.get("token_type_ids", ()) for t in kinds],
        }
        return Row(record.id, record.source, [i for ids in read["input_ids"] for i in ids], [1.0], fields=fields)

    def collate(
        self, rows: Sequence[Row], packed: bool = False, *, epochs: Sequence[int] | None = None, seed: int = 0
    ) -> Batch:
        """Padded pairs [W, L], those of a row one after the other. `fields["sequences"]` [W]: whose each is."""
        pairs, kinds, owners = [], [], []
        for k, row in enumerate(rows):
            for begin, end in pairwise(accumulate(row.fields["lengths"], initial=0)):
                pairs.append(row.input_ids[begin:end])
                kinds.append(row.fields["types"][begin:end])
                owners.append(k)
        ids, mask = pad(pairs)
        inputs = {"input_ids": ids, "attention_mask": mask}
        if all(kinds):
            inputs["token_type_ids"] = pad(kinds)[0]
        return Batch(
            inputs=inputs,
            labels=torch.tensor([row.fields["target"] for row in rows]),
            weights=torch.tensor([row.weights[0] for row in rows], dtype=torch.float32),
            rows=torch.arange(len(rows)),
            row_ids=[r.id for r in rows],
            sources=[r.source for r in rows],
            tokens=int(mask.sum()),
            epochs=epochs_of(rows, epochs),
            fields={"prompt_lengths": mask.sum(1), "sequences": torch.tensor(owners)},
        )

    def forward(self, model: nn.Module, batch: Batch, *, hidden: bool = False) -> Outputs:
        """`logits` [R, MOST], of which a row's choices come first; `features` [R, D] are the means over a row's choices
        of what the head reads.
        """
        inputs, owners = dict(batch.inputs), batch.fields["sequences"]
        if getattr(getattr(model, "config", None), "type_vocab_size", 0) < 2:
            inputs.pop("token_type_ids", None)
        ran = read_head(model, batch, {name: values[:, None] for name, values in inputs.items()}, hidden=hidden)
        assert ran.read is not None
        each, rows = ran.out.logits[:, 0], len(batch.row_ids)
        place = torch.arange(len(owners), device=owners.device)
        place = place - torch.searchsorted(owners, torch.arange(rows, device=owners.device))[owners]
        logits = each.new_full((rows, MOST), NO_SPAN).index_put((owners, place), each)
        return Outputs(
            logits,
            batch.labels,
            hidden=ran.out.hidden_states if hidden else None,
            features=row_means(ran.read, owners, rows),
            head=ran.head,
            raw=ran.out,
            present=ran.present,
        )

    def predict(self, outputs: Outputs, batch: Batch, rows: Sequence[Row]) -> list[tuple[str, str]]:
        """(the likeliest choice, the right one) of each row, as texts."""
        chosen = outputs.logits.argmax(-1).tolist()
        return [(r.fields["names"][i], r.fields["reference"]) for r, i in zip(rows, chosen, strict=True)]

    def chance(self, row: Row) -> float:
        """How often a choice at random is right."""
        return 1 / len(row.fields["names"])

    def default_metric(self, rows: Sequence[Row]) -> str:
        return "choice_accuracy"


def _text(record: Record, columns: Sequence[str]) -> str:
    """The first of some columns that a record has. RowProblem where it is no text."""
    column = next((c for c in columns if c in record), columns[0])
    text = record.get(column)
    if not isinstance(text, str) or not text.strip():
        remedy = f"fill it in, or name its column in the source: columns: {{{columns[0]}: your_column}}"
        raise RowProblem(column, f"the {columns[0]} is missing or empty", remedy)
    return text


def _choices(record: Record) -> tuple[list[str], list[str]]:
    """The choices' texts, and their own labels (none where they have none)."""
    column = next((c for c in ("choices", "endings") if c in record), "choices")
    given: Any = record.get(column)
    labels = list[str]()
    if isinstance(given, dict):
        given, labels = given.get("text"), [str(label) for label in given.get("label") or ()]
    elif column not in record:
        given = [record[f"ending{i}"] for i in takewhile(lambda i: f"ending{i}" in record, count())]
    if not isinstance(given, list) or not all(isinstance(c, str) and c.strip() for c in given):
        remedy = 'write ["first", "second"], or name the column in the source: columns: {choices: your_column}'
        raise RowProblem(column, "it is no list of texts", remedy)
    if not 2 <= len(given) <= MOST or labels and len(labels) != len(given):
        has = f"{len(labels)} labels for {len(given)}" if labels and len(labels) != len(given) else str(len(given))
        raise RowProblem(column, f"it has {has} choices", f"write 2 to {MOST} texts, and as many labels or none")
    return given, labels


def _answer(record: Record, names: Sequence[str], labels: Sequence[str]) -> int:
    """The right choice's place."""
    column = next((c for c in ANSWERS if c in record), ANSWERS[0])
    value = record.get(column)
    said = "" if isinstance(value, bool) or value is None else str(value).strip()
    for known in (labels, names):
        if list(known).count(said) == 1:
            return list(known).index(said)
    place = int(said) if said.isdecimal() else ord(said) - ord("A") if len(said) == 1 and "A" <= said <= "Z" else -1
    if labels or not 0 <= place < len(names):
        known = ", ".join(labels) or f"0 to {len(names) - 1}, a letter"
        what = f"{said[:60]!r} is none of the choices" if column in record else "the row does not say which is right"
        raise RowProblem(column, what, f"write {known}, or a choice's text")
    return place
