"""The words of a record, whatever its shape: what selectors that read text look at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

COLUMNS = ("text", "system", "prompt", "completion", "chosen")


def text_of(record: Mapping[str, Any]) -> str:
    """What is said in a record, in order, one part a line: its text, or prompt and completion, or every turn of a
    chat.
    """
    parts = [record.get(c) for c in COLUMNS]
    for part in (*parts, record.get("messages")):
        if isinstance(part, list | tuple):
            parts += [turn.get("content") for turn in part if isinstance(turn, Mapping)]
    return "\n".join(p for p in parts if isinstance(p, str) and p)


def answer_of(record: Mapping[str, Any]) -> str:
    """What a record answers: its completion, or what the assistant says in its turns; of plain text all of it."""
    found = record.get("completion") or record.get("chosen") or record.get("messages") or record.get("text")
    if isinstance(found, list | tuple):
        said = [turn for turn in found if isinstance(turn, Mapping) and turn.get("role") == "assistant"]
        found = "\n".join(turn["content"] for turn in said if isinstance(turn.get("content"), str))
    return found if isinstance(found, str) else ""
