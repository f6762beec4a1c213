"""The words of a record, whatever its shape: what selectors that read text look at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator

from tunewright.contract.records import Record

COLUMNS = ("text", "system", "prompt", "completion", "chosen")
MEDIA = ("image", "images", "audio", "video", "videos")
CHARACTERS = 1 << 18
"""Of texts that are looked at together."""


def text_of(record: Mapping[str, Any]) -> str:
    """What is said in a record, in order, one part a line: its text, or prompt and completion, or every turn of a
    chat.
    """
    parts = [record.get(c) for c in COLUMNS]
    for part in (*parts, record.get("messages")):
        if isinstance(part, list | tuple):
            parts += [turn.get("content") for turn in part if isinstance(turn, Mapping)]
    return "\n".join(p for p in parts if isinstance(p, str) and p)


def blank(record: Mapping[str, Any]) -> bool:
    """Whether a record has texts, and none of them says anything; one with a picture or a recording says something."""
    found = record.get("text")
    if isinstance(found, str) and found and not found.isspace():
        return False
    if not any(c in record for c in (*COLUMNS, "messages")):
        return False
    return not text_of(record).strip() and all(record.get(c) is None for c in MEDIA)


def asked(record: Mapping[str, Any]) -> str:
    """What a record asks, as text: its prompt, or every turn before the last answer; "" where it asks nothing."""
    found = record.get("prompt") or record.get("messages") or ""
    if isinstance(found, list | tuple):
        turns = [t for t in found if isinstance(t, Mapping)]
        if not record.get("prompt") and turns and turns[-1].get("role") == "assistant":
            turns = turns[:-1]
        found = "\n".join(str(t.get("content") or "") for t in turns)
    return "\n".join(str(p) for p in (record.get("system"), found) if p)


HEADER = "### Response:"
"""What stands before an answer whose prompt was taken away, where a prompt is one text."""


def without_prompt(record: Record) -> Record:
    """A copy of a record that asks nothing: `HEADER` in the place of a prompt, turns of others with nothing in them."""

    def blank(turns: Sequence[Any]) -> list[Any]:
        return [t if t.get("role") == "assistant" else {**t, "content": ""} for t in turns]

    changes: dict[str, Any] = {"system": None} if record.get("system") else {}
    for column in ("prompt", "messages"):
        found = record.get(column)
        if isinstance(found, list | tuple):
            changes[column] = blank(found)
        elif found:
            changes[column] = HEADER
    return record.replace(**changes)


def answer_of(record: Mapping[str, Any]) -> str:
    """What a record answers: its completion, or what the assistant says in its turns; of plain text all of it."""
    found = record.get("completion") or record.get("chosen") or record.get("messages") or record.get("text")
    if isinstance(found, list | tuple):
        said = [turn for turn in found if isinstance(turn, Mapping) and turn.get("role") == "assistant"]
        found = "\n".join(turn["content"] for turn in said if isinstance(turn.get("content"), str))
    return found if isinstance(found, str) else ""


def in_batches(records: Iterable[Record]) -> Iterator[tuple[list[Record], list[str]]]:
    """Records and their texts, a few hundred thousand characters at a time."""
    some, texts, held = list[Record](), list[str](), 0
    for record in records:
        text = text_of(record)
        some.append(record)
        texts.append(text)
        held += len(text)
        if held >= CHARACTERS:
            yield some, texts
            some, texts, held = [], [], 0
    if some:
        yield some, texts


def _spaced(value: Any) -> Any:
    return value.split() if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_spaced)]
"""Names: a list, or one text with spaces between them, as a command line writes it ("de fr")."""
