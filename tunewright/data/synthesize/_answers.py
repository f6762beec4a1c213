"""A record's question and answer, whatever its shape: what methods that write another answer need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tunewright.contract.records import Record
from tunewright.errors import DataError


def _last(turns: Sequence[Mapping[str, Any]]) -> int | None:
    """Place of the last thing that the assistant says."""
    return next((i for i in range(len(turns) - 1, -1, -1) if turns[i].get("role") == "assistant"), None)


def with_answer(record: Record, text: str) -> dict[str, Any]:
    """The record's columns with another answer."""
    if "messages" in record:
        turns = list(record["messages"])
        last = _last(turns)
        return {**record, "messages": [*turns[:last], {"role": "assistant", "content": text}]}
    return {**record, "completion": text}


def question_and_answer(record: Record) -> tuple[str, str]:
    """(what is asked, what the record answers) as texts. DataError where the record has no answer."""
    if "messages" in record:
        turns = record["messages"]
        last = _last(turns)
        if last is not None and isinstance(turns[last].get("content"), str):
            asked = "\n\n".join(str(t.get("content", "")) for t in turns[:last] if t.get("role") != "system")
            return asked, turns[last]["content"]
    prompt, answer = record.get("prompt"), record.get("completion")
    if isinstance(answer, str) and answer.strip():
        if isinstance(prompt, list):
            prompt = "\n\n".join(str(t.get("content", "")) for t in prompt)
        if isinstance(prompt, str):
            return prompt, answer
    raise DataError(
        "the record has no answer that others could be compared with",
        where=record.where,
        remedy="give rows with prompt and completion, or messages that end on an assistant's turn",
    )
