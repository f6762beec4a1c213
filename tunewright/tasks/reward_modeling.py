"""reward-modeling: one number a text, that of two answers the preferred one gets the higher (a reward model).

A sequence classifier with one output r (`num_labels` 1), so that transformers loads the folder as it is. Rows and their
losses:

- `prompt`, `chosen`, `rejected`:   -log sigmoid(r(chosen) - r(rejected))       Bradley-Terry, one a pair  [nats]
- `prompt`, `completion`, `score`:  (r - score)^2                               one a row; or `text`, `score`
- `prompt`, `completions`, `scores`: the same at the end of each piece          one a piece: partial answers

The pieces of `completions` are put one after the other as they are written; the scores of partial answers are read by a
decoder's head at the last token of each piece. An encoder's head reads a whole text, so that it gives one score a row.

An answer is encoded as text-generation encodes it and read at its last token. Tokens at the end that the model takes
for padding are left out (the end of text, where it is the padding token): transformers' classes read the last token
that is none, and so does this.

Errors: RowProblem for a row with neither two answers nor a score. Source: Ouyang et al. 2022 (arXiv:2203.02155, eq. 1)
for pairs; the columns of partial answers are those of trl's stepwise supervision, whose `labels` are read too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from tunewright.contract.batch import Batch, Loss, Outputs, Row
from tunewright.contract.records import Record, RowProblem, finite
from tunewright.contract.task import EncodeOptions, Task
from tunewright.errors import MethodError, ModelError
from tunewright.models import context
from tunewright.pieces.heads import classifier_head
from tunewright.tasks import text_generation
from tunewright.tasks._segments import ALONE, ids_of
from tunewright.tasks.base import epochs_of, pad

NO_LIKELIHOOD = "a reward model gives one number a text and no likelihoods"


class RewardModeling(Task):
    """`weights` are 1 where a score is read. `fields`: `rejected_ids` of a pair, or `scores`, one a place."""

    name: ClassVar[str] = "reward-modeling"
    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    scores: ClassVar[bool] = True
    unit: ClassVar[str] = "nats per pair, or squared points"

    def encode(self, record: Record, tokenizer: Any, options: EncodeOptions) -> Row:
        """Encode a pair, a scored answer, or the scored pieces of one."""
        if "chosen" in record:
            chosen, rejected = (self._answer(record, record.get(k), tokenizer, options) for k in ("chosen", "rejected"))
            fields = {"rejected_ids": rejected[0], "rejected_weights": _at_end(rejected[0])}
            about = {"prompt_ids": chosen[0][: chosen[1]], "kind": "scored"}
            return Row(record.id, record.source, chosen[0], _at_end(chosen[0]), fields={**about, **fields})
        if "completions" in record:
            return self._pieces(record, tokenizer, options)
        if "score" not in record:
            raise RowProblem(
                "score",
                "the row has neither two answers nor a score",
                "give prompt, chosen and rejected; or prompt, completion and score (name its column "
                "in the source: columns: {score: your_column})",
            )
        said = None if "messages" in record else record.get("completion")
        ids, start = self._answer(record, said, tokenizer, options)
        fields = {"kind": "scored", "prompt_ids": ids[:start], "scores": [_number(record["score"], "score")]}
        return Row(record.id, record.source, ids, _at_end(ids), fields=fields)

    def ends(self, row_id: str, prompt: Sequence[int], answer: Sequence[int], tokenizer: Any, *, each: bool) -> Row:
        """A row of tokens that are there already, to be scored at its end, or (`each`) at the prompt's end and after
        each token of the answer.
        """
        ids = _without_padding([*prompt, *answer], tokenizer)
        before = len(prompt) - 1
        weights = [0.0] * before + [1.0] * (len(ids) - before) if each else _at_end(ids)
        fields = {"kind": "scored", "scores": [0.0] * max(1, round(sum(weights)))}
        return Row(row_id, "", ids, weights, fields=fields)

    def collate(
        self, rows: Sequence[Row], packed: bool = False, *, epochs: Sequence[int] | None = None, seed: int = 0
    ) -> Batch:
        """Padded [B, L]: a pair is two sequences, chosen before rejected. A target a place that is scored.

        `fields`: `score` [S], `other` [S] the target of the rejected answer (-1: the row is no pair), `sequence` [S].
        The targets of rejected answers have weight 0: a pair has one loss.
        """
        sequences: list[Sequence[int]] = []
        owner, place, sequence, weights, scores, other = ([] for _ in range(6))  # type: ignore[var-annotated]
        first: list[int] = []
        for k, row in enumerate(rows):
            first.append(len(sequences))
            if "rejected_ids" in row.fields:
                rejected = row.fields["rejected_ids"]
                weight = max(row.weights)
                owner += [k, k]
                sequence += [len(sequences), len(sequences) + 1]
                place += [len(row.input_ids) - 1, len(rejected) - 1]
                other += [len(owner) - 1, -1]
                weights += [weight, 0.0]
                scores += [0.0, 0.0]
                sequences += [row.input_ids, rejected]
                continue
            at = [i for i, w in enumerate(row.weights) if w > 0]
            owner += [k] * len(at)
            sequence += [len(sequences)] * len(at)
            place += at
            other += [-1] * len(at)
            weights += [row.weights[i] for i in at]
            scores += row.fields["scores"]
            sequences.append(row.input_ids)
        ids, mask = pad(sequences)
        along = torch.tensor(sequence, dtype=torch.long)
        pairs = torch.tensor([2 if "rejected_ids" in r.fields else 1 for r in rows])
        return Batch(
            inputs={"input_ids": ids, "attention_mask": mask},
            labels=torch.zeros(len(owner), dtype=torch.long),
            weights=torch.tensor(weights, dtype=torch.float32),
            rows=torch.tensor(owner, dtype=torch.long),
            row_ids=[r.id for r in rows],
            sources=[r.source for r in rows],
            tokens=int(mask.sum()),
            positions=along * ids.shape[1] + torch.tensor(place, dtype=torch.long),
            epochs=epochs_of(rows, epochs),
            fields={
                "prompt_lengths": mask.sum(1),
                "score": torch.tensor(scores, dtype=torch.float32),
                "other": torch.tensor(other, dtype=torch.long),
                "pair": along - torch.tensor(first)[torch.tensor(owner, dtype=torch.long)],
                "first": torch.tensor(first),
                "sequences": torch.repeat_interleave(torch.arange(len(rows)), pairs),
            },
        )

    def forward(self, model: nn.Module, batch: Batch, *, hidden: bool = False) -> Outputs:
        """`scores` [S] and `logits` [S, 1]; `features` [R, D] are what the head reads of each row's (chosen) answer.

        ModelError where partial answers are to be scored by a head that reads whole texts.
        """
        assert batch.positions is not None
        inputs, config = dict(batch.inputs), getattr(model, "config", None)
        mask, padding = inputs["attention_mask"], getattr(config, "pad_token_id", None)
        if padding is not None:
            inputs["input_ids"] = inputs["input_ids"].masked_fill(mask == 0, padding)
        head, seen = classifier_head(model), list[Tensor]()
        hook = head.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        now = context.of_batch(batch)
        try:
            with context.reading(now):
                out = model(**inputs, **({"output_hidden_states": True} if hidden else {}))
        finally:
            hook.remove()
        read, length = seen[-1], mask.shape[1]
        last = mask.sum(1) - 1
        if read.dim() == 3:
            features = read.flatten(0, 1)[batch.positions]
            values = head(features)[:, 0]
            pooled = read[torch.arange(len(last), device=last.device), last]
        else:
            along = batch.positions // length
            if bool((batch.positions % length != last[along]).any()):
                raise ModelError(
                    "this model's head reads a whole text: it cannot score partial answers",
                    remedy="give one score a row, or take a causal model",
                )
            values, pooled = out.logits[along, 0], read
        return Outputs(
            values[:, None],
            batch.labels,
            log_probs=_none,
            hidden=out.hidden_states if hidden else None,
            features=pooled[batch.fields["first"]],
            head=head,
            scores=values.float(),
            raw=out,
            present=now,
        )

    def loss(self, outputs: Outputs, batch: Batch) -> Loss:
        """Of a pair at its chosen answer's target, of a score at its own; 0 at a rejected answer's."""
        scores = outputs.scores
        assert scores is not None
        other, rejected = batch.fields["other"], batch.weights == 0
        compared = -logsigmoid(scores - scores[other.clamp(min=0)])
        apart = (scores - batch.fields["score"]) ** 2
        value = torch.where(other >= 0, compared, apart)
        return Loss(torch.where(rejected, torch.zeros_like(value), value))

    def default_metric(self, rows: Sequence[Row]) -> str:
        """`pair_accuracy` where all rows are pairs, else `loss`."""
        return "pair_accuracy" if rows and all("rejected_ids" in r.fields for r in rows) else "loss"

    def _answer(self, record: Record, said: Any, tokenizer: Any, options: EncodeOptions) -> tuple[list[int], int]:
        """Token ids of prompt and answer up to the answer's end, and how many of them are the prompt."""
        columns = {k: v for k, v in record.items() if k not in ("chosen", "rejected", "completions", "score", "scores")}
        if said is not None:
            columns["completion"] = said
        plain = Record(columns, id=record.id, where=record.where, source=record.source)
        if around(tokenizer):
            prompt, answer, text = (plain.get(k) for k in ("prompt", "completion", "text"))
            if "prompt" not in plain and isinstance(text, str) and text.strip():
                return ids_of(tokenizer, text, special=True), 0
            if not isinstance(prompt, str) or not isinstance(answer, str):
                raise RowProblem("prompt", "an encoder reads a prompt and an answer as texts", "write both as text")
            ids = list(tokenizer(prompt, answer, verbose=False)["input_ids"])
            return ids, len(ids_of(tokenizer, prompt, special=True))
        row = text_generation.TextGeneration().encode(plain, tokenizer, options)
        last = max(i for i, w in enumerate(row.weights) if w > 0)
        ids = _without_padding(row.input_ids[: last + 1], tokenizer)
        return ids, min(len(row.fields.get("prompt_ids", ())), len(ids))

    def _pieces(self, record: Record, tokenizer: Any, options: EncodeOptions) -> Row:
        """Each piece ends at the first token by which the answer's text is as long as all pieces up to it."""
        pieces, scores = record["completions"], record.get("scores")
        if not isinstance(pieces, list) or not pieces or not all(isinstance(p, str) and p for p in pieces):
            raise RowProblem("completions", "it is no list of texts", 'write ["first piece", " and the next"]')
        if not isinstance(scores, list) or len(scores) != len(pieces):
            raise RowProblem("scores", f"{len(pieces)} pieces need as many scores", "write one number a piece")
        if around(tokenizer):
            raise RowProblem(
                "completions",
                "an encoder's head reads a whole text: it cannot score pieces of one",
                "give prompt, completion and score, or take a causal model",
            )
        ids, start = self._answer(record, "".join(pieces), tokenizer, options)
        ends, upto = list[int](), 0
        for piece in pieces[:-1]:
            upto += len(piece)
            n = ends[-1] + 1 if ends else start
            while n < len(ids) - 1 and len(tokenizer.decode(ids[start : n + 1], skip_special_tokens=True)) < upto:
                n += 1
            ends.append(n)
        ends.append(len(ids) - 1)
        if len(set(ends)) < len(ends):
            raise RowProblem("completions", "two pieces end within one token", "write longer pieces")
        weights = [float(i in set(ends)) for i in range(len(ids))]
        fields = {"kind": "scored", "prompt_ids": ids[:start], "scores": [_number(s, "scores") for s in scores]}
        return Row(record.id, record.source, ids, weights, fields=fields)


def around(tokenizer: Any) -> bool:
    """Whether a tokenizer puts its separator behind every text, as encoders' do."""
    ids = ids_of(tokenizer, ALONE, special=True)
    return tokenizer.sep_token_id is not None and ids[-1] == tokenizer.sep_token_id


def _without_padding(ids: Sequence[int], tokenizer: Any) -> list[int]:
    out = list(ids)
    while len(out) > 1 and tokenizer is not None and out[-1] == tokenizer.pad_token_id:
        out.pop()
    return out


def _at_end(ids: Sequence[int]) -> list[float]:
    return [0.0] * (len(ids) - 1) + [1.0]


def _number(value: Any, field: str) -> float:
    if (number := finite(value)) is not None:
        return number
    raise RowProblem(field, f"{value!r:.60} is no number", "write a finite number")


def _none() -> Tensor:
    raise MethodError(NO_LIKELIHOOD, remedy="take a method that serves reward-modeling, or none: the task has a loss")
