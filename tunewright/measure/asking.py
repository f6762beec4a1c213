"""A pack's questions put to a model: prompts as the model's rows are written, greedy answers, and a score a row."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from transformers import PreTrainedModel

from tunewright.contract.batch import Row
from tunewright.contract.records import Record, RowProblem
from tunewright.contract.task import EncodeOptions, Task
from tunewright.errors import RecipeError
from tunewright.measure import text
from tunewright.measure._mode import measuring
from tunewright.measure.calls import HERMES, Form, form_of, told
from tunewright.measure.checkers import Said, right
from tunewright.measure.generate import greedy
from tunewright.measure.pack import Pack, PackRow
from tunewright.measure.rows import RowResult

WRITES = ("text-generation", "text2text-generation", "image-text-to-text")
"""Tasks, and kinds of tasks, whose models answer a question."""
_ANSWER = "."
"""Stands in an answer's place while a prompt is made: rows are encoded with an answer."""


@dataclass(frozen=True)
class Questions:
    """A pack's rows as a model reads them. `form`: how it writes calls of tools; `hash`: of all that is asked."""

    pack: Pack
    rows: list[Row]
    form: Form
    hash: str

    @property
    def tokens(self) -> int:
        """Tokens of all questions."""
        return sum(len(text.prompt_ids(row)) for row in self.rows)

    def of_rows(self, places: Sequence[int]) -> Questions:
        """Some of the questions, by their places and in that order."""
        named = list(self.pack.rows.items())
        pack = replace(self.pack, rows=dict(named[i] for i in places))
        return replace(self, pack=pack, rows=[self.rows[i] for i in places])


def check_answers(task: Task, data: str, where: str = "keep") -> None:
    """RecipeError where the models of a task do not answer questions."""
    if not any(task.is_a(name) for name in WRITES):
        raise RecipeError(
            f"'{data}' asks questions, and models of {task.name} do not write answers",
            where=where,
            remedy="take the pack out, and keep texts or rows of the task",
        )


def questions(pack: Pack, task: Task, tokenizer: Any, options: EncodeOptions) -> Questions:
    """The pack's rows, encoded as the task's are (chat template, `data.system`). DataError for one that cannot be."""
    check_answers(task, pack.name)
    form, rows = HERMES, []
    for where, row in pack.rows.items():
        source = pack.name if row.group is None else f"{pack.name}/{row.group}"
        try:
            found = form_of(tokenizer) if row.tools else None
            form = found or form
            record = Record(_columns(row, task, tokenizer, options, found), id=f"{pack.name}/{where}", source=source)
            encoded = task.encode(record, tokenizer, replace(options, template=None, labels=None))
        except RowProblem as problem:
            raise problem.at(f"{pack.folder / pack.info.rows}:{where.rpartition(':')[2]}").error() from None
        rows.append(encoded)
    asked = [list(text.prompt_ids(row)) for row in rows]
    h = hashlib.sha256(json.dumps([pack.hash, asked, repr(form)]).encode())
    return Questions(pack, rows, form, h.hexdigest())


def _columns(row: PackRow, task: Task, tokenizer: Any, options: EncodeOptions, form: Form | None) -> dict[str, Any]:
    """The record that a row is encoded as: a conversation where there is a chat template, else one text."""
    system, prompt = row.system or "", row.prompt
    if row.tools and form is None:  # in the user's turn: some templates have no system turn
        prompt = f"{told(row.tools)}\n\n{prompt}"
    template = getattr(tokenizer, "chat_template", None) and not task.is_a("text2text-generation")
    chat = bool(template) if options.chat is None else options.chat
    if not chat:
        return {"prompt": f"{system}\n\n{prompt}".strip(), "completion": _ANSWER}
    turns = [{"role": "system", "content": system}] if system else []
    turns += [{"role": "user", "content": prompt}, {"role": "assistant", "content": _ANSWER}]
    return {"messages": turns, **({"tools": row.tools} if row.tools and form is not None else {})}


def ask(
    model: PreTrainedModel, tokenizer: Any, task: Task, asked: Questions, *, batch_tokens: int = 4096
) -> list[RowResult]:
    """Greedy answers to a pack's questions, in batches, each scored 1 (right) or 0."""
    prompts, longest = [text.prompt_ids(row) for row in asked.rows], asked.pack.info.max_new_tokens
    if task.continues:
        answers = greedy(model, tokenizer, prompts, longest, batch_tokens=batch_tokens, rows=asked.rows)
    else:
        with measuring(model):
            answers = task.write(model, tokenizer, prompts, longest)
    return [
        judged(row, question, tokenizer, answer, asked.form)
        for row, question, answer in zip(asked.rows, asked.pack.rows.values(), answers, strict=True)
    ]


def judged(row: Row, question: PackRow, tokenizer: Any, answer: Sequence[int], form: Form) -> RowResult:
    """An answer (token ids) with its score; the reference says by what it was judged."""
    said = Said(
        text.answer_text(tokenizer, answer),
        str(tokenizer.decode(answer, skip_special_tokens=False)),
        question.tools,
        form,
    )
    return RowResult(
        id=row.id,
        source=row.source,
        prompt=text.prompt_text(tokenizer, row),
        answer=said.text.strip(),
        reference=wanted(question),
        score=float(right(said, question.check)),
    )


def wanted(question: PackRow) -> str:
    """What an answer has to be, as it stands in rows.jsonl: checkers and what they want."""
    return "; ".join(f"{name}: {_plain(value)}" for name, value in question.check.items())


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
