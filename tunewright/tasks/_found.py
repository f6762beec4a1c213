"""Whether a rendered conversation holds what the turns say: a chat template may leave out whatever its author forgot.

Templates trim, escape and lay out, so a content is looked for without the white space around it and piece by piece
between think tags, and a text inside JSON also in its escaped forms.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from tunewright.tasks._turns import REASONING, Turn

THINK = re.compile(r"</?(?:[\w-]+:)?think(?:ing)?>|\[/?THINK\]|<\|(?:START|END)_(?:THINKING|RESPONSE)\|>")
HOLE = "\ue07e"
"""A letter of private use that stands for a picture (`_placed`): a template decides where that is written."""
SHORT = 8  # characters
Needle = tuple[str, str, Callable[[str], tuple[str, ...]] | None]
"""The field that says something, the text that must be found, and how else it may stand there."""


def opens(text: str) -> str | None:
    """The think tag that a text opens and does not close, None where there is none."""
    tags = THINK.findall(text)
    return tags[-1] if tags and not closes(tags[-1]) else None


def closes(tag: str) -> bool:
    """Whether a think tag ends a thought."""
    return bool(re.search("/|END|RESPONSE", tag))


def pieces(content: str) -> list[str]:
    """A content's text between think tags and pictures, without the white space around it."""
    return [p for p in (piece.strip() for part in THINK.split(content) for piece in part.split(HOLE)) if p]


def said_by(turn: Turn, *, history: bool = False) -> Iterator[Needle]:
    """What must be found of a turn: its content, calls and reasoning.

    `history`: what it thought need not be there, since most templates show the thoughts of the last answer alone.
    """
    content = turn["content"]
    parts = pieces(content)
    if history and turn["role"] == "assistant" and THINK.search(content):
        parts = parts[-1:]
    if not history and turn.get(REASONING[0]):
        yield REASONING[0], turn[REASONING[0]].strip(), _escaped
    for part in parts:
        yield "content", part, _escaped if turn["role"] != "assistant" else None
    for k, call in enumerate(turn.get("tool_calls", ())):
        function, at = call["function"], f"tool_calls[{k}].function"
        yield f"{at}.name", function["name"], None
        yield from _leaves(function["arguments"], f"{at}.arguments")


def _leaves(value: Any, at: str) -> Iterator[Needle]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield f"{at}.{key}", key, _escaped
            yield from _leaves(inner, f"{at}.{key}")
    elif isinstance(value, list):
        for k, inner in enumerate(value):
            yield from _leaves(inner, f"{at}[{k}]")
    elif isinstance(value, str):
        yield at, value.strip(), _escaped
    else:
        yield at, json.dumps(value), lambda _: (str(value),)  # True and None, as Python writes them


def _escaped(text: str) -> tuple[str, ...]:
    """A text inside JSON: once, without letters beyond ASCII, and as JSON in JSON."""
    once, ascii_ = json.dumps(text, ensure_ascii=False)[1:-1], json.dumps(text)[1:-1]
    return once, ascii_, json.dumps(once, ensure_ascii=False)[1:-1]


def missing(turn: Turn, text: str, *, history: bool = False, never: frozenset[str] = frozenset()) -> str | None:
    """The first field of a turn that a text does not hold, None where it holds all.

    `never`: the beginnings of fields that the template never shows; a short text found there stands there by chance.
    """
    for field, said, others in said_by(turn, history=history):
        by_chance = len(said) <= SHORT and any(field.startswith(begin) for begin in never)
        if by_chance or not (said in text or others and any(form in text for form in others(said))):
            return field
    return None


def has_short(turn: Turn) -> bool:
    """Whether something that a turn says is so short that it may stand in its text by chance."""
    return any(len(said) <= SHORT for _, said, _ in said_by(turn))
