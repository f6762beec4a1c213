"""text2text-generation: encoder-decoder models (T5, BART, Marian) read a source and write a target.

Rows have `prompt` and `completion`. The source is encoded as the tokenizer encodes a text, the target as it encodes one
to be written (`text_target`), with the end of text behind it. `Row.input_ids` are the source's tokens and the target's
behind them; only the target's count. The decoder is given the targets moved by one place by the model's own function
(`prepare_decoder_input_ids_from_labels`), and padded targets are -100. `data.max_length` bounds each of the two; rows
are never split. What a model was told to do by a prefix, the template says: `template: "summarize: {prompt}"`.

Answers are written by the model's own `generate`, under its own generation config: greedily or with as many beams as
that says, unless `measurement.num_beams` says another number.

Errors: RowProblem for a row without a source or a target; ModelError for a model without a decoder of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from tunewright.contract.batch import Batch, Outputs, Row
from tunewright.contract.records import Record, RowProblem
from tunewright.contract.task import EncodeOptions, Task
from tunewright.errors import ModelError
from tunewright.models.arguments import reads_two_texts
from tunewright.tasks.base import epochs_of, fill, pad

NO_TARGET = -100
AT_ONCE = 64
"""Rows that are written at once, at most."""
TOKENS_AT_ONCE = 8192
"""Source tokens, padding too, that are read at once for writing, at most."""


class Text2TextGeneration(Task):
    """`fields`: `prompt_ids` the source, `reference` the target's text, `kind` "text2text"."""

    name: ClassVar[str] = "text2text-generation"
    auto_class: ClassVar[str] = "AutoModelForSeq2SeqLM"
    generates: ClassVar[bool] = True

    def encode(self, record: Record, tokenizer: Any, options: EncodeOptions) -> Row:
        """Encode `prompt` and `completion`, in the recipe's template where it has one."""
        for field in ("prompt", "completion"):
            if field not in record:
                has = ", ".join(sorted(record)) or "nothing"
                remedy = f"add it, or name its column in the source: columns: {{{field}: your_column}}"
                raise RowProblem(field, f"the row has no '{field}' (it has: {has})", remedy)
            if not isinstance(record[field], str):
                what = f"text is needed, not {type(record[field]).__name__}"
                raise RowProblem(field, what, "write it as a JSON string")
            if not record[field].strip():
                raise RowProblem(field, "the text is empty", "fill it in, or take the row out")
        prompt, completion = record["prompt"], record["completion"]
        if options.template:
            if "{completion}" in options.template:
                remedy = "write what stands around the source alone: template: 'summarize: {prompt}'"
                raise RowProblem("template", "source and target are read apart, and data.template joins them", remedy)
            prompt = fill(options.template, record, text=prompt, prompt=prompt)
        source = list(tokenizer(prompt, verbose=False)["input_ids"])
        target = list(tokenizer(text_target=completion, verbose=False)["input_ids"])
        end = tokenizer.eos_token_id
        if end is not None and target[-1:] != [end]:
            target.append(end)
        fields = {"kind": "text2text", "prompt_ids": source, "reference": completion.strip()}
        weights = [0.0] * len(source) + [1.0] * len(target)
        return Row(record.id, record.source, [*source, *target], weights, fields=fields)

    def collate(
        self, rows: Sequence[Row], packed: bool = False, *, epochs: Sequence[int] | None = None, seed: int = 0
    ) -> Batch:
        """Sources padded [R, L]; `fields["decoder_labels"]` [R, M] the targets, -100 where there is none. Positions
        count in [R * M].
        """
        starts = [len(row.fields["prompt_ids"]) for row in rows]
        ids, mask = pad([row.input_ids[:start] for row, start in zip(rows, starts, strict=True)])
        targets, _ = pad([row.input_ids[start:] for row, start in zip(rows, starts, strict=True)], NO_TARGET)
        weights, _ = pad_floats([row.weights[start:] for row, start in zip(rows, starts, strict=True)])
        owner, place = (weights > 0).nonzero(as_tuple=True)
        return Batch(
            inputs={"input_ids": ids, "attention_mask": mask},
            labels=targets[owner, place],
            weights=weights[owner, place],
            rows=owner,
            row_ids=[r.id for r in rows],
            sources=[r.source for r in rows],
            tokens=sum(len(r.input_ids) for r in rows),
            positions=owner * targets.shape[1] + place,
            epochs=epochs_of(rows, epochs),
            fields={"decoder_labels": targets, "prompt_lengths": mask.sum(1)},
        )

    def forward(self, model: nn.Module, batch: Batch, *, hidden: bool = False) -> Outputs:
        """`logits` [S, V] at the decoder's places; `hidden` are the decoder's states [R, M, D]."""
        assert batch.positions is not None
        if not reads_two_texts(model):
            what = f"{type(model).__name__} does not say how its decoder is given what it wrote before"
            raise ModelError(what, remedy="take an encoder-decoder model of transformers, such as T5, BART or Marian")
        written: Any = model.prepare_decoder_input_ids_from_labels
        inputs = {**batch.inputs, "decoder_input_ids": written(batch.fields["decoder_labels"]), "use_cache": False}
        out = model(**inputs, **({"output_hidden_states": True} if hidden else {}))
        logits = out.logits.flatten(0, 1)[batch.positions]
        return Outputs(logits, batch.labels, hidden=out.decoder_hidden_states if hidden else None, raw=out)

    def write(
        self, model: nn.Module, tokenizer: Any, prompts: Sequence[Sequence[int]], max_new_tokens: int, **how: Any
    ) -> list[list[int]]:
        """Answers to sources by the model's own `generate`, sources of like length at once."""
        answers: list[list[int]] = [[] for _ in prompts]
        generate: Any = model.generate
        device = next(model.parameters()).device
        for some in _batches([len(p) for p in prompts]):
            ids, mask = pad([prompts[i] for i in some], tokenizer.pad_token_id or 0)
            settings = {"do_sample": False, **how, "max_new_tokens": max_new_tokens}
            out = generate(input_ids=ids.to(device), attention_mask=mask.to(device), **settings)
            for i, wrote in zip(some, out.tolist(), strict=True):
                answers[i] = written(wrote[1:], model, tokenizer)
        return answers

    def default_metric(self, rows: Sequence[Row]) -> str:
        """`exact_match`; `sacrebleu`, `chrf`, `rouge1`, `rouge2` and `rougeL` are there by name."""
        return "exact_match"


def pad_floats(sequences: Sequence[Sequence[float]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-pad numbers with zeros: [R, L] fp32 and the mask."""
    longest = max(len(s) for s in sequences)
    out, mask = torch.zeros(len(sequences), longest), torch.zeros(len(sequences), longest)
    for i, s in enumerate(sequences):
        out[i, : len(s)], mask[i, : len(s)] = torch.tensor(s), 1
    return out, mask


def _batches(lengths: Sequence[int]) -> list[list[int]]:
    """Indices, shortest first, in groups that hold no more than is read at once."""
    groups: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        full = groups and len(groups[-1]) < AT_ONCE and (len(groups[-1]) + 1) * lengths[i] <= TOKENS_AT_ONCE
        if full:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


def written(ids: Sequence[int], model: nn.Module, tokenizer: Any) -> list[int]:
    """The tokens up to the end, without it and without padding behind it."""
    said = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ends = {tokenizer.eos_token_id, *(said if isinstance(said, list) else [said])} - {None}
    stop = next((k for k, token in enumerate(ids) if token in ends), len(ids))
    out = list(ids[:stop])
    while out and out[-1] == tokenizer.pad_token_id:
        out.pop()
    return out
