"""What a record says, whatever its shape: its question and answer, or its text as a document."""

from __future__ import annotations

import json
import re
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


def document_of(record: Record) -> str:
    """The text of a record that is a document. DataError where it has none."""
    text = record.get("text")
    if not isinstance(text, str) or not text.strip():
        raise DataError(
            "the record is no document: it has no text",
            where=record.where,
            remedy="give plain text (a .txt file, or rows of one column `text`)",
        )
    return text


def json_texts(text: str) -> list[str] | None:
    """The texts of a list that an answer gives as JSON, alone or under a key of an object; None where it gives none."""
    for opening, closing in (("{", "}"), ("[", "]")):
        start, end = text.find(opening), text.rfind(closing)
        if 0 <= start < end:
            try:
                value = json.loads(text[start : end + 1])
            except ValueError:
                continue
            lists = [value] if isinstance(value, list) else [v for v in value.values() if isinstance(v, list)]
            return [name for some in lists for name in some if isinstance(name, str)]
    return None


def plain_lines(text: str) -> list[str]:
    """An answer's lines without bullets and numbers before them."""
    return [re.sub(r"^\s*(?:[-*•]|\d+[.)])\s*", "", line) for line in text.splitlines()]


BESIDE = "{}\n\n=====\n\n"
"""What a model is asked for a text that is related to another: that text, and a line that ends it."""


def related_to(record: Record) -> Record:
    """A document's record as the question for one that is related to it. DataError where it has no text."""
    prompt = BESIDE.format(document_of(record))
    return Record({"prompt": prompt}, id=record.id, where=record.where, source=record.source, base=record.base)
