"""A writer that is a model in this process: prompts as its rows ask in training, answers drawn in batches."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tunewright.contract.batch import Row
from tunewright.contract.reader import hash_of
from tunewright.contract.records import Record, RowProblem
from tunewright.contract.task import EncodeOptions, Task
from tunewright.contract.writer import Asked, Continue, Prompt, Reply, Writer
from tunewright.errors import MethodError
from tunewright.models.adapted import Adapted

STAND_IN = "..."
"""An answer that closes a prompt while it is encoded; it is not read."""


@dataclass(kw_only=True)
class LocalWriter(Writer):
    """Writes with a causal model. `bring` gives the model as it writes, which may take a load: it is asked for when
    something is written, and once to be named by its weights.

    A record is asked as `task.encode` lays out its prompt under `options`; what is no record, without the recipe's
    template.
    """

    bring: Callable[[], Adapted]
    task: Task
    tokenizer: Any
    options: EncodeOptions
    _hash: str = field(default="", repr=False)

    def identity(self) -> dict[str, Any]:
        if not self._hash:
            self._hash = hash_of(self.bring())
        return {"weights": self._hash}

    def shown(self, prompt: Prompt) -> Any:
        if isinstance(prompt, Continue):
            return {"continue": prompt.text}
        if isinstance(prompt, Record):  # as it is asked, template and all: the options are part of the question
            return {"row": prompt.id, "asked": self.tokenizer.decode(self._row(prompt).fields["prompt_ids"])}
        return {"ask": prompt} if isinstance(prompt, str) else {"ask": [dict(turn) for turn in prompt]}

    def _row(self, prompt: Prompt) -> Row:
        """The prompt as a row whose `prompt_ids` are what the model goes on from. MethodError where it has none."""
        options = replace(self.options, template=None, truncation="split")
        if isinstance(prompt, Record):
            record, options = answered(prompt), self.options
        elif isinstance(prompt, Continue):
            record, options = Record({"prompt": prompt.text, "completion": STAND_IN}, id="prompt"), _plain(options)
        elif isinstance(prompt, str):
            record = Record({"prompt": prompt, "completion": STAND_IN}, id="prompt")
        elif self.tokenizer.chat_template and options.chat is not False:
            turns = [*map(dict, prompt), {"role": "assistant", "content": STAND_IN}]
            record = Record({"messages": turns}, id="prompt")
        else:  # no template: what was said, one turn a paragraph
            text = "\n\n".join(str(turn["content"]) for turn in prompt)
            record = Record({"prompt": text + "\n\n", "completion": STAND_IN}, id="prompt")
        try:
            row = self.task.encode(record, self.tokenizer, options)
        except RowProblem as problem:
            raise MethodError(
                f"'{self.name}' cannot be asked this: {problem.field}: {problem.reason}",
                where=record.where,
                remedy=problem.remedy,
            ) from None
        if not row.fields.get("prompt_ids"):
            raise MethodError(
                f"'{self.name}' is asked to answer a record that asks nothing",
                where=record.where,
                remedy="give rows with prompt and completion, or messages; or a method that writes about plain text",
            )
        return row

    def _write(self, asked: Sequence[Asked], max_new_tokens: int, temperature: float) -> tuple[list[list[Reply]], int]:
        adapted = self.bring()
        rows = [self._row(a.prompt) for a in asked]
        room = getattr(adapted.model.config, "max_position_embeddings", None) or 1 << 40
        fits = [len(row.fields["prompt_ids"]) + max_new_tokens <= room for row in rows]
        wanted = [(row, d) for a, row, fit in zip(asked, rows, fits, strict=True) if fit for d in a.draws]
        written = iter(self._drawn(adapted, wanted, max_new_tokens, temperature))
        out = []
        for a, row, fit in zip(asked, rows, fits, strict=True):
            long = f"{len(row.fields['prompt_ids'])} tokens and {max_new_tokens} new ones; it reads {room}"
            long = f"the prompt is too long: {long}"
            out.append([next(written) if fit else Reply("", False, 0, refused=long) for _ in a.draws])
        return out, sum(len(row.fields["prompt_ids"]) for row, fit in zip(rows, fits, strict=True) if fit)

    def _drawn(
        self, adapted: Adapted, wanted: Sequence[tuple[Row, str]], max_new_tokens: int, temperature: float
    ) -> list[Reply]:
        from tunewright.measure.generate import greedy, stop_ids
        from tunewright.measure.sampled import sampled

        model: Any = adapted.model
        prompts, rows = [row.fields["prompt_ids"] for row, _ in wanted], [row for row, _ in wanted]
        ends = stop_ids(model, self.tokenizer)
        if temperature == 0:
            found = greedy(model, self.tokenizer, prompts, max_new_tokens, ends, rows=rows)
            return [Reply(self._text(ids), len(ids) < max_new_tokens, len(ids)) for ids in found]
        rngs = [random.Random(draw) for _, draw in wanted]
        drawn = sampled(model, prompts, max_new_tokens, rngs=rngs, stop_ids=ends, temperature=temperature, rows=rows)
        out = []
        for ids, log_probs in drawn:
            ended = bool(ids) and ids[-1] in ends
            out.append(Reply(self._text(ids[:-1] if ended else ids), ended, len(ids), sum(log_probs)))
        return out

    def _text(self, ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        return text


def answered(record: Record) -> Record:
    """The record with an answer, where it has none: what only asks can then be encoded."""
    if "messages" in record:
        turns = list(record["messages"])
        last = turns[-1].get("role") if turns and isinstance(turns[-1], dict) else None
        return (
            record if last != "user" else record.replace(messages=[*turns, {"role": "assistant", "content": STAND_IN}])
        )
    return record if "completion" in record or "prompt" not in record else record.replace(completion=STAND_IN)


def _plain(options: EncodeOptions) -> EncodeOptions:
    return replace(options, chat=False)
