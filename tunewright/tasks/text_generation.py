"""text-generation: causal language models on plain text, prompt and completion, conversations, or labels as text.

Every row becomes token ids with a loss weight each: all of a plain text, only the answer (with its end) otherwise.
`Row.fields` holds `kind` ("plain", "prompt", "chat", "choice", "preference") and, but for plain text, `prompt_ids`
(what generation starts from; a prefix of `input_ids`) and `reference` (the answer's text as it is trained, without
special tokens). `untrained` counts earlier answers of a conversation that its chat template writes otherwise than they
were said, so that they are context only; `nameless` turns with a name that it does not show; `spaced` is there where
a prompt without a template ends in a space.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from tunewright.contract.batch import Batch, Outputs, Row
from tunewright.contract.pairs import Pair, side_by_side
from tunewright.contract.records import Record, RowProblem
from tunewright.contract.task import EncodeOptions, Task
from tunewright.tasks._causal import causal_outputs
from tunewright.tasks._chat import conversation
from tunewright.tasks._patterns import patterns_of
from tunewright.tasks._segments import encode_segments, first_token, ids_of, last_token, prefetched, spoken
from tunewright.tasks._turns import parsed_tools
from tunewright.tasks._units import Encoded
from tunewright.tasks.base import epochs_of, fill, is_missing, label_id, pad

ANSWERS = {"prompt": ("completion",), "choice": ("label",), "preference": ("chosen", "rejected")}
"""Kind of row -> the columns of its answer, which what is asked may not show."""


class TextGeneration(Task):
    """Next-token prediction. Packs where the model's attention can."""

    name: ClassVar[str] = "text-generation"
    auto_class: ClassVar[str] = "AutoModelForCausalLM"
    packs: ClassVar[bool] = True
    generates: ClassVar[bool] = True

    def encode(self, record: Record, tokenizer: Any, options: EncodeOptions) -> Row:
        """Encode one record: `messages`, `prompt` + `completion` (or `chosen` + `rejected`), `text` + `label`, or
        `text`.
        """
        if "messages" in record:
            return self._chat(record, record["messages"], tokenizer, options)
        if "prompt" in record and "chosen" in record:
            return self._preference(record, tokenizer, options)
        if isinstance(record.get("prompt"), list) and "completion" in record:
            return self._chat(record, talk_of(record["prompt"], record["completion"]), tokenizer, options)
        if "prompt" in record:
            return self._answer(record, text_of(record, "completion"), "prompt", tokenizer, options)
        if "label" in record:
            text = label_text(record["label"], options.labels)
            return self._answer(record, text, "choice", tokenizer, options)
        return self._plain(record, tokenizer, options)

    def encode_many(self, records: Sequence[Record], tokenizer: Any, options: EncodeOptions) -> list[Row | Exception]:
        """`encode` each record, with one pass of the tokenizer over them all, where they are plain text, a prompt and
        its answer, or a conversation without calls and tools.
        """
        talks = [self._talk(record, tokenizer, options) for record in records]
        at = [i for i, talk in enumerate(talks) if talk is not None]
        known: dict[int, Row] = {}

        def alone(k: int) -> Encoded | None:
            row = super(TextGeneration, self).encode_many([records[at[k]]], tokenizer, options)[0]
            return _encoded(row) if isinstance(row, Row) else None

        if at:
            found = patterns_of(tokenizer, str(tokenizer.chat_template), options.system)
            for i, made in zip(at, found.encode([talks[i][0] for i in at], alone), strict=True):  # type: ignore[index]
                if made is not None:
                    known[i] = _row(records[i], talks[i][1], made)  # type: ignore[index]
        rest = [i for i in range(len(records)) if i not in known]
        texts = [text for i in rest for text in self._texts(records[i], tokenizer, options)]
        with prefetched(tokenizer, texts):
            others = super().encode_many([records[i] for i in rest], tokenizer, options)
        made_too = dict(zip(rest, others, strict=True))
        return [known[i] if i in known else made_too[i] for i in range(len(records))]

    def _talk(self, record: Record, tokenizer: Any, options: EncodeOptions) -> tuple[Any, str] | None:
        """A record's conversation and kind; None for what is none, or shows tools."""
        if not tokenizer.chat_template or record.get("tools"):
            return None
        if "messages" in record:
            return record["messages"], "chat"
        if options.template or options.chat is False or "chosen" in record or "system" in record:
            return None
        if isinstance(record.get("prompt"), str) and "completion" in record:
            turns = [
                {"role": "user", "content": record["prompt"]},
                {"role": "assistant", "content": record["completion"]},
            ]
            return turns, "prompt"
        return None

    def _texts(self, record: Record, tokenizer: Any, options: EncodeOptions) -> list[str]:
        """Texts that encoding a record will ask the tokenizer for, as far as that is plain."""
        if options.template or "messages" in record:
            return []
        text, prompt, answer = (record.get(c) for c in ("text", "prompt", "completion"))
        if "prompt" not in record and "label" not in record and isinstance(text, str):
            return [text]
        chat = bool(tokenizer.chat_template) if options.chat is None else options.chat
        if not chat and isinstance(prompt, str) and isinstance(answer, str):
            return [prompt, prompt + answer]
        return []

    def answer(self, record: Record, text: str, tokenizer: Any, options: EncodeOptions) -> Row:
        """The row of a record with another answer: what choosing by likelihood among labels compares."""
        if "messages" in record:
            last = max(i for i, m in enumerate(record["messages"]) if m["role"] == "assistant")
            turns = [*record["messages"][:last], {"role": "assistant", "content": text}]
            return self.encode(record.replace(messages=turns), tokenizer, options)
        field = "label" if "label" in record and "prompt" not in record else "completion"
        return self.encode(record.replace(**{field: text}), tokenizer, options)

    def collate(
        self, rows: Sequence[Row], packed: bool = False, *, epochs: Sequence[int] | None = None, seed: int = 0
    ) -> Batch:
        """Packed: [1, T] with positions that restart in each row. Padded: [R, L]. A row's first token is never a
        target.

        Rows that are pairs (all or none) are laid out by `tunewright.contract.pairs.side_by_side`.
        """
        if rows and isinstance(rows[0], Pair):
            return side_by_side(lambda flat, again: self.collate(flat, packed, epochs=again, seed=seed), rows, epochs)
        lengths = torch.tensor([len(r.input_ids) for r in rows])
        ids = torch.tensor([i for r in rows for i in r.input_ids], dtype=torch.long)
        weights = torch.tensor([w for r in rows for w in r.weights], dtype=torch.float32)
        starts = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
        weights[starts[:-1]] = 0.0
        at = weights.nonzero()[:, 0]
        owner = torch.repeat_interleave(torch.arange(len(rows)), lengths)
        place = torch.arange(len(ids)) - starts[owner]
        if packed:
            inputs = {"input_ids": ids[None], "position_ids": place[None]}
            positions, cu = at - 1, starts.to(torch.int32)
        else:
            padded, mask = pad([r.input_ids for r in rows])
            inputs = {"input_ids": padded, "attention_mask": mask}
            positions, cu = owner[at] * padded.shape[1] + place[at] - 1, None
        return Batch(
            inputs=inputs,
            labels=ids[at],
            weights=weights[at],
            rows=owner[at],
            row_ids=[r.id for r in rows],
            sources=[r.source for r in rows],
            tokens=len(ids),
            positions=positions,
            cu_seqlens=cu,
            epochs=epochs_of(rows, epochs),
            fields={"max_length": int(lengths.max()), "prompt_lengths": torch.tensor([_asked(r) for r in rows])},
        )

    def forward(self, model: nn.Module, batch: Batch, *, hidden: bool = False) -> Outputs:
        """Logits only at `batch.positions`, and only when asked for."""
        return causal_outputs(model, batch, hidden=hidden)

    def default_metric(self, rows: Sequence[Row]) -> str:
        """`exact_match` where rows have answers, `loss` for plain text."""
        return "exact_match" if rows and all("prompt_ids" in r.fields for r in rows) else "loss"

    def _plain(self, record: Record, tokenizer: Any, options: EncodeOptions) -> Row:
        text = text_of(record, "text")
        if options.template and "{completion}" not in options.template:
            text = fill(options.template, record, text=text)
        ids = [*first_token(tokenizer), *ids_of(tokenizer, text), last_token(tokenizer)]
        return Row(record.id, record.source, ids, [1.0] * len(ids), fields={"kind": "plain"})

    def _answer(self, record: Record, answer: str, kind: str, tokenizer: Any, options: EncodeOptions) -> Row:
        """A prompt and its answer, as user and assistant turns where the tokenizer has a chat template."""
        if not answer.strip():
            raise RowProblem(
                "completion" if kind == "prompt" else "label",
                "the answer is empty",
                "write the answer, or take the row out",
            )
        prompt = text_of(record, "prompt" if "prompt" in record else "text")
        if options.template and "{completion}" in options.template:
            before, after = options.template.split("{completion}", 1)
            asked = before.rstrip(" ")  # a space that ends a prompt would be a token that no text has before a word
            answer = before[len(asked) :] + answer
            asked = fill(asked, record, answers=ANSWERS.get(kind, ()), text=prompt, prompt=prompt)
            return self._bare(record, asked, answer, after, kind, tokenizer)
        if options.template:
            prompt = fill(options.template, record, answers=ANSWERS.get(kind, ()), text=prompt, prompt=prompt)
        chat = bool(tokenizer.chat_template) if options.chat is None else options.chat
        if not chat:
            return self._bare(record, prompt, answer, "", kind, tokenizer)
        turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
        system = record.get("system")
        if isinstance(system, str) and system:
            turns.insert(0, {"role": "system", "content": system})
        return self._chat(record, turns, tokenizer, options, kind)

    def _bare(self, record: Record, prompt: str, answer: str, after: str, kind: str, tokenizer: Any) -> Row:
        """A prompt and its answer with no template: BOS if the tokenizer adds one, EOS at the end."""
        end = last_token(tokenizer)
        ids, weights, start = encode_segments(
            tokenizer, [(prompt, 0.0), (answer + after, 1.0)], bos=first_token(tokenizer)
        )
        fields: dict[str, Any] = {"kind": kind, "prompt_ids": ids[:start], "reference": answer.strip()}
        if prompt.endswith(" "):
            fields["spaced"] = True
        return Row(record.id, record.source, [*ids, end], [*weights, 1.0], fields=fields)

    def _chat(self, record: Record, messages: Any, tokenizer: Any, options: EncodeOptions, kind: str = "chat") -> Row:
        if not tokenizer.chat_template:
            raise RowProblem(
                "messages",
                "this tokenizer has no chat template",
                (
                    "use a chat model, give the template in its folder (chat_template.jinja), or write prompt and "
                    "completion"
                ),
            )
        talk = conversation(tokenizer, messages, tools=parsed_tools(record.get("tools")), system=options.system)
        ids, weights, start = encode_segments(tokenizer, talk.segments)
        said = talk.answer
        if said is None:  # the answer as generation would give it: with a think block, with calls
            said = tokenizer.decode(spoken(ids, weights, start), skip_special_tokens=True)
        fields: dict[str, Any] = {"kind": kind, "prompt_ids": ids[:start], "reference": said.strip()}
        if talk.untrained:
            fields["untrained"] = talk.untrained
        if talk.nameless:
            fields["nameless"] = talk.nameless
        return Row(record.id, record.source, ids, weights, fields=fields)

    def _preference(self, record: Record, tokenizer: Any, options: EncodeOptions) -> Row:
        """A pair: the row is the chosen answer's, `fields["rejected_ids"]` and `["rejected_weights"]` are the
        other's.
        """
        sides = []
        for side in ("chosen", "rejected"):
            prompt, said = record["prompt"], record.get(side)
            if isinstance(prompt, list):
                sides.append(self._chat(record, talk_of(prompt, said), tokenizer, options, "preference"))
            else:
                sides.append(self._answer(record, text_of(record, side), "preference", tokenizer, options))
        chosen, rejected = sides
        fields = {**chosen.fields, "rejected_ids": list(rejected.input_ids), "rejected_weights": list(rejected.weights)}
        return Row(record.id, record.source, chosen.input_ids, chosen.weights, fields=fields)


def _asked(row: Row) -> int:
    """How many of a row's first tokens are the prompt: those before its answer, else those that no loss is put on."""
    if "prompt_ids" in row.fields:
        return min(len(row.fields["prompt_ids"]), len(row.input_ids))
    return next((i for i, w in enumerate(row.weights) if w > 0), len(row.input_ids))


def _row(record: Record, kind: str, made: Encoded) -> Row:
    fields: dict[str, Any] = {"kind": kind, "prompt_ids": made.ids[: made.start], "reference": made.answer}
    if made.untrained:
        fields["untrained"] = made.untrained
    return Row(record.id, record.source, made.ids, made.weights, fields=fields)


def _encoded(row: Row) -> Encoded:
    fields = row.fields
    start, untrained = len(fields["prompt_ids"]), fields.get("untrained", 0)
    return Encoded(list(row.input_ids), list(row.weights), start, fields["reference"], untrained)


def label_text(label: Any, names: Sequence[str] | None) -> str:
    """A label as an answer: text as it stands, a number by the name that it means where names are known."""
    if is_missing(label):
        raise RowProblem("label", "the label is missing (null or NaN)", "write the label's text")
    if not isinstance(label, str | int | float):
        raise RowProblem("label", f"text is needed, not {type(label).__name__}", "write the label as a JSON string")
    return str(label) if names is None or isinstance(label, str) else names[label_id(label, names)]


def talk_of(prompt: list[Any], said: Any) -> list[Any]:
    """A prompt of turns and the turns, or the text, of its answer as one conversation."""
    return [*prompt, *(said if isinstance(said, list) else [{"role": "assistant", "content": said}])]


def text_of(record: Record, field: str) -> str:
    value = record.get(field)
    if field not in record:
        raise RowProblem(
            field,
            f"the row has no '{field}' (it has: {', '.join(sorted(record)) or 'nothing'})",
            f"add it, or name its column in the source: columns: {{{field}: your_column}}",
        )
    if value is None:
        raise RowProblem(field, "the text is missing (null, or an empty cell)", "fill it in, or take the row out")
    if not isinstance(value, str):
        raise RowProblem(field, f"text is needed, not {type(value).__name__}", "write it as a JSON string")
    if not value.strip():
        raise RowProblem(field, "the text is empty", "fill it in, or take the row out")
    return value
