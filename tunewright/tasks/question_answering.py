"""question-answering: the span of a context that answers a question, or that there is none (extractive, as in SQuAD).

Rows have `question`, `context` and `answers`: {"text": [...], "answer_start": [...]} in characters of the context,
empty lists where it does not tell (SQuAD 2.0). Answers may also be texts alone: then each stands where it occurs first.

Question and context are read as a pair. A context that does not fit into `max_length` is read in windows, which overlap
by a third of `max_length` (384: 128, as BERT's run_squad has it) or by half of the room beside a long question. A
window's targets are the first and the last token of the first answer, or, where the window does not hold it whole, the
class token twice:

    loss of a window = (CE(start) + CE(end)) / 2       over the window's own tokens, padding left out

The answer is the span of at most 30 tokens whose two logits have the largest sum in any window. It is none where the
class token's sum, the least of all windows', is larger: SQuAD 2.0's rule with a threshold of 0.

Errors: RowProblem for an answer that is not where it is said to be (one that occurs exactly once is found again, and
`check` names the row), and for a question that leaves no room. Source: Devlin et al. 2018, sections 4.2 and 4.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tunewright.contract.batch import Batch, Outputs, Row
from tunewright.contract.records import Record, RowProblem, lone_surrogate
from tunewright.contract.task import EncodeOptions, Task
from tunewright.errors import ModelError
from tunewright.pieces.means import row_means, token_means
from tunewright.tasks._passages import NO_SPAN, Answers, answers_of, best_span, tokens_of, windows_of
from tunewright.tasks.base import epochs_of, fill, pad, read_head


class QuestionAnswering(Task):
    """A row is a question with all windows of its context, end to end in `input_ids`.

    `fields`: `windows`, (from, to) in the context's tokens; `first` and `behind`, how many tokens stand before and
    after a window's; `targets`, two places of `input_ids` a window; `offsets`, two characters a token of the context;
    `whole`, the tokens of question and context unsplit; `width`, the places that a window's logits have. `weights` are
    one a target.
    """

    name: ClassVar[str] = "question-answering"
    auto_class: ClassVar[str] = "AutoModelForQuestionAnswering"
    outputs: ClassVar[tuple[str, ...]] = ("start", "end")
    per_token: ClassVar[bool] = True
    unit: ClassVar[str] = "nats per end of a span"

    def encode(self, record: Record, tokenizer: Any, options: EncodeOptions) -> Row:
        """Encode question, context and answers."""
        return self._encode([_read(record, tokenizer, options)], tokenizer, options)[0]

    def encode_many(self, records: Sequence[Record], tokenizer: Any, options: EncodeOptions) -> list[Row | Exception]:
        """`encode` each record, with one pass of the tokenizer over all that can be read."""
        out: dict[int, Row | Exception] = {}
        good = dict[int, _Given]()
        for i, record in enumerate(records):
            try:
                good[i] = _read(record, tokenizer, options)
            except Exception as error:  # of one record: the others are encoded all the same
                out[i] = error
        try:
            made: list[Row | Exception] = [*self._encode(list(good.values()), tokenizer, options)]
        except RowProblem:  # of one of them, by its tokens
            made = super().encode_many([records[i] for i in good], tokenizer, options)
        out |= dict(zip(good, made, strict=True))
        return [out[i] for i in range(len(records))]

    def _encode(self, given: Sequence[_Given], tokenizer: Any, options: EncodeOptions) -> list[Row]:
        if not given:
            return []
        read = tokenizer(
            [g[1] for g in given], [g[2] for g in given], return_offsets_mapping=True, truncation=False, verbose=False
        )
        limit = min(options.max_length, getattr(tokenizer, "model_max_length", None) or options.max_length)
        special = [i for i in (tokenizer.cls_token_id, tokenizer.bos_token_id) if i is not None]
        return [
            _row(*one, {name: read[name][k] for name in read}, read.sequence_ids(k), limit, special)
            for k, one in enumerate(given)
        ]

    def collate(
        self, rows: Sequence[Row], packed: bool = False, *, epochs: Sequence[int] | None = None, seed: int = 0
    ) -> Batch:
        """Padded windows [W, L], those of a row one after the other; two targets a window, start before end.

        `fields`: `sequences` [W], whose each window is; `width`, the places of a window's logits.
        """
        windows, kinds, labels, weights, owners = [], list[list[int]](), list[int](), list[float](), list[int]()
        for k, row in enumerate(rows):
            bounds = [0, *torch.tensor(lengths_of(row)).cumsum(0).tolist()]
            for w, (begin, end) in enumerate(pairwise(bounds)):
                windows.append(row.input_ids[begin:end])
                kinds.append(row.fields["types"][begin:end])
                labels += [row.fields["targets"][2 * w + side] - begin for side in (0, 1)]
                owners.append(k)
            weights += row.weights
        ids, mask = pad(windows)
        inputs = {"input_ids": ids, "attention_mask": mask}
        if all(kinds):
            inputs["token_type_ids"] = pad(kinds)[0]
        of = torch.tensor(owners)
        return Batch(
            inputs=inputs,
            labels=torch.tensor(labels),
            weights=torch.tensor(weights, dtype=torch.float32),
            rows=of.repeat_interleave(2),
            row_ids=[r.id for r in rows],
            sources=[r.source for r in rows],
            tokens=int(mask.sum()),
            epochs=epochs_of(rows, epochs),
            fields={
                "prompt_lengths": mask.sum(1),
                "sequences": of,
                "width": max(max(r.fields["width"] for r in rows), ids.shape[1]),
            },
        )

    def forward(self, model: nn.Module, batch: Batch, *, hidden: bool = False) -> Outputs:
        """`logits` [2 W, width]: of the places where a window's span may begin, then of those where it may end.
        `features` [R, D] are the means of what the head reads of a row's windows.
        """
        inputs = dict(batch.inputs)
        if getattr(getattr(model, "config", None), "type_vocab_size", 0) < 2:
            inputs.pop("token_type_ids", None)
        ran = read_head(model, batch, inputs, hidden=hidden)
        mask = inputs["attention_mask"]
        both = torch.stack([ran.out.start_logits, ran.out.end_logits], 1)
        if ran.read is None or both.shape[-1] != mask.shape[1]:
            raise ModelError(
                f"{type(model).__name__} does not give a start and an end at each token",
                remedy="take an encoder that transformers has as a *ForQuestionAnswering",
            )
        both = both.masked_fill(mask[:, None] == 0, NO_SPAN).flatten(0, 1)
        logits = nn.functional.pad(both, (0, batch.fields["width"] - both.shape[1]), value=NO_SPAN)
        features = row_means(token_means(ran.read, mask), batch.fields["sequences"], len(batch.row_ids))
        return Outputs(
            logits,
            batch.labels,
            hidden=ran.out.hidden_states if hidden else None,
            features=features,
            head=ran.head,
            raw=ran.out,
            present=ran.present,
        )

    def predict(self, outputs: Outputs, batch: Batch, rows: Sequence[Row]) -> list[tuple[str, str]]:
        """(the span that the model takes, the right answers, one a line) of each row; "" for none."""
        logits, begin = outputs.logits.detach().float().cpu(), 0
        said = []
        for row in rows:
            count = len(row.fields["windows"])
            said.append(_answer(logits[2 * begin : 2 * (begin + count)], row))
            begin += count
        return [(answer, str(row.fields["reference"])) for answer, row in zip(said, rows, strict=True)]

    def default_metric(self, rows: Sequence[Row]) -> str:
        return "squad_f1"


_Given = tuple[Record, str, str, Answers]
"""A record, its question as it is asked, its context and its answers."""


def _read(record: Record, tokenizer: Any, options: EncodeOptions) -> _Given:
    """What a record holds. RowProblem where it is no question with a context and answers."""
    question, context = record.get("question"), record.get("context")
    for field, text in (("question", question), ("context", context)):
        if not isinstance(text, str) or not text.strip():
            remedy = f"fill it in, or name its column in the source: columns: {{{field}: your_column}}"
            raise RowProblem(field, f"the {field} is missing or empty", remedy)
        if (cut := lone_surrogate(text, field)) is not None:
            raise cut
    assert isinstance(question, str) and isinstance(context, str)
    if not getattr(tokenizer, "is_fast", False):
        what = f"{type(tokenizer).__name__} does not say which characters a piece stands for"
        raise RowProblem("tokenizer", what, "take a model with a fast tokenizer (tokenizer.json)")
    asked = fill(options.template, record, answers=("answers",), text=question) if options.template else question
    return record, asked, context, answers_of(record, context)


def _row(
    record: Record,
    question: str,
    context: str,
    answers: Answers,
    read: dict[str, Any],
    sides: Sequence[int | None],
    limit: int,
    special: Sequence[int],
) -> Row:
    ids, places = read["input_ids"], [i for i, side in enumerate(sides) if side == 1]
    if not places:
        raise RowProblem("context", "the tokenizer reads nothing of the context", "write words that it knows")
    first, behind = places[0], len(ids) - places[-1] - 1
    room = limit - first - behind
    if room < 1:
        what = f"the question has {first} tokens, which leaves no room for the context (max_length is {limit})"
        raise RowProblem("question", what, "shorten it, or raise data.max_length")
    offsets = [tuple(read["offset_mapping"][i]) for i in places]
    windows = windows_of(len(places), room, min(limit // 3, room // 2))
    held = tokens_of(answers.start, answers.start + len(answers.texts[0]), offsets) if answers.texts else None
    if answers.texts and held is None:
        raise RowProblem("answers", "the tokenizer reads nothing of the answer", "write words that it knows")
    none = next((i for i in (*range(first), *range(places[-1] + 1, len(ids))) if ids[i] in special), 0)
    tokens, types, targets = list[int](), list[int](), list[int]()
    kinds = read.get("token_type_ids") or []
    for begin, end in windows:
        start = len(tokens)
        kept = [*range(first), *range(first + begin, first + end), *range(len(ids) - behind, len(ids))]
        inside = held is not None and begin <= held[0] and held[1] < end
        nowhere = none if none < first else none - len(places) + end - begin
        targets += [start + (first + at - begin if inside else nowhere) for at in held or (0, 0)]
        tokens += [ids[i] for i in kept]
        types += [kinds[i] for i in kept] if kinds else []
    fields = {
        "kind": "question",
        "text": record["question"],
        "reference": "\n".join(answers.texts),
        "context": context,
        "targets": targets,
        "windows": [list(w) for w in windows],
        "first": first,
        "behind": behind,
        "nowhere": none if none < first else none - len(ids),
        "offsets": [c for pair in offsets for c in pair],
        "types": types,
        "whole": len(ids),
        "width": limit,
        "moved": answers.moved,
    }
    return Row(record.id, record.source, tokens, [1.0] * len(targets), fields=fields)


def lengths_of(row: Row) -> list[int]:
    """Tokens of each window of a row."""
    around = row.fields["first"] + row.fields["behind"]
    return [around + end - begin for begin, end in row.fields["windows"]]


def _answer(logits: Tensor, row: Row) -> str:
    """The text of the best span of a row's windows, whose logits [2 W, width] are; "" where none is better."""
    first, nowhere, offsets = (row.fields[k] for k in ("first", "nowhere", "offsets"))
    spans, none = [], []
    for w, ((begin, end), length) in enumerate(zip(row.fields["windows"], lengths_of(row), strict=True)):
        start, stop = logits[2 * w], logits[2 * w + 1]
        at = nowhere if nowhere >= 0 else length + nowhere
        none.append(float(start[at] + stop[at]))
        inside = slice(first, first + end - begin)
        span = best_span(start[inside], stop[inside])
        spans.append((span.score, begin + span.first, begin + span.last))
    score, first_token, last_token = max(spans, key=lambda span: span[0])
    if min(none) > score:
        return ""
    return " ".join(str(row.fields["context"])[offsets[2 * first_token] : offsets[2 * last_token + 1]].split())
