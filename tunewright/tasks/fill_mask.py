"""fill-mask: masked language models. Which tokens are masked is drawn anew each epoch from (seed, epoch, row id) alone.

As in BERT (Devlin et al. 2018): 15 % of the tokens are labels; of these 80 % become the mask token, 10 % a random
token, 10 % stay.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from tunewright.contract.batch import Batch, Outputs, Row
from tunewright.contract.method import row_rng
from tunewright.contract.records import Record, RowProblem
from tunewright.contract.task import EncodeOptions, Task
from tunewright.models import context
from tunewright.tasks._segments import ids_of
from tunewright.tasks.base import epochs_of, fill, pad

SHARE, MASKED, RANDOM = 0.15, 0.8, 0.1


def draw_mask(
    ids: Sequence[int], allowed: Sequence[int], mask_id: int, vocabulary: int, rng: random.Random
) -> tuple[list[int], list[int]]:
    """Return the ids with labels masked, and the labels' places (sorted, at least one of `allowed`)."""
    places = [i for i in allowed if rng.random() < SHARE] or [rng.choice(list(allowed))]
    out = list(ids)
    for i in places:
        u = rng.random()
        if u < MASKED:
            out[i] = mask_id
        elif u < MASKED + RANDOM:
            out[i] = rng.randrange(vocabulary)
    return out, places


class FillMask(Task):
    """`weights[i]` is 1 where token i may be a target (0: a special token)."""

    name: ClassVar[str] = "fill-mask"
    auto_class: ClassVar[str] = "AutoModelForMaskedLM"

    def encode(self, record: Record, tokenizer: Any, options: EncodeOptions) -> Row:
        """Encode `text` with the tokens that the tokenizer puts around it."""
        text = record.get("text")
        if not isinstance(text, str) or not text.strip():
            raise RowProblem(
                "text",
                "the text is missing or empty",
                "fill it in, or name its column in the source: columns: {text: your_column}",
            )
        if tokenizer.mask_token_id is None:
            raise RowProblem(
                "tokenizer", "it has no mask token", "use a masked language model, or task: text-generation"
            )
        if options.template:
            text = fill(options.template, record, text=text)
        ids = ids_of(tokenizer, text, special=True)
        special = set(tokenizer.all_special_ids)
        weights = [0.0 if i in special else 1.0 for i in ids]
        return Row(
            record.id,
            record.source,
            ids,
            weights,
            fields={"kind": "mask", "mask_id": int(tokenizer.mask_token_id), "vocabulary": len(tokenizer)},
        )

    def collate(
        self, rows: Sequence[Row], packed: bool = False, *, epochs: Sequence[int] | None = None, seed: int = 0
    ) -> Batch:
        """Padded, masked ids [R, L]; `positions` are the masked places themselves in the flattened [R*L]."""
        epochs = epochs_of(rows, epochs)
        masked, labels, weights, owner, places = [], [], [], [], []
        for k, (row, epoch) in enumerate(zip(rows, epochs, strict=True)):
            allowed = [i for i, w in enumerate(row.weights) if w > 0]
            if not allowed:
                masked.append(list(row.input_ids))
                continue
            ids, at = draw_mask(
                row.input_ids,
                allowed,
                row.fields["mask_id"],
                row.fields["vocabulary"],
                row_rng(seed, self.name, epoch, row.id),
            )
            masked.append(ids)
            labels += [row.input_ids[i] for i in at]
            weights += [row.weights[i] for i in at]
            owner += [k] * len(at)
            places += at
        inputs, mask = pad(masked)
        rows_at, place_at = torch.tensor(owner, dtype=torch.long), torch.tensor(places, dtype=torch.long)
        return Batch(
            inputs={"input_ids": inputs, "attention_mask": mask},
            labels=torch.tensor(labels, dtype=torch.long),
            weights=torch.tensor(weights, dtype=torch.float32),
            rows=rows_at,
            row_ids=[r.id for r in rows],
            sources=[r.source for r in rows],
            tokens=int(mask.sum()),
            positions=rows_at * inputs.shape[1] + place_at,
            epochs=list(epochs),
            fields={"prompt_lengths": mask.sum(1)},  # every token is given, the masked ones are to be found
        )

    def forward(self, model: nn.Module, batch: Batch, *, hidden: bool = False) -> Outputs:
        """`logits` [S, V] at the masked places. The model's own head runs whole: its transform differs by family."""
        assert batch.positions is not None
        now = context.of_batch(batch)
        with context.reading(now):
            out = model(**batch.inputs, **({"output_hidden_states": True} if hidden else {}))
        return Outputs(
            out.logits.flatten(0, 1)[batch.positions],
            batch.labels,
            hidden=out.hidden_states if hidden else None,
            raw=out,
            present=now,
        )
