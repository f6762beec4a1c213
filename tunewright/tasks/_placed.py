"""Where pictures stand in a conversation: rows as people write them, and a chat template that is shown real parts.

A picture is a part of a turn's content (`{"type": "image"}`, with a picture of its own or taken in order from the
column `images` or `image`), or `<image>` in a text, as LLaVA's data has it. In between, each is one letter that no text
holds (HOLE), so that conversations are laid out, checked and cut into segments as everywhere else; only the template
sees parts again.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from tunewright.contract.records import Record, RowProblem
from tunewright.errors import ModelError
from tunewright.tasks._dialect import dialect_of
from tunewright.tasks._found import HOLE
from tunewright.tasks._render import render

COLUMNS = ("images", "image")
WRITTEN = re.compile(r"<image>\n?")
"""A picture's place inside a text, as LLaVA's data writes it."""
_KINDS = ("image", "image_url", "input_image")
_EXAMPLE = 'write [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "..."}]}, ...] and images'
_FIRST, _THEN, _SAID = "Qfirstq", "Qthenq", "Qsaidq"


def given(record: Record) -> list[Any]:
    """The pictures of a record's columns, in order; none where it has none, or null. `images` is a list of them,
    `image` one, which may be pixels [H][W] or [H][W][3], or a list of files.
    """
    column = next((c for c in COLUMNS if record.get(c) is not None), None)
    value = record.get(column) if column else []
    several = isinstance(value, list | tuple)
    if several and column == "image" and value and isinstance(value[0], list | tuple):
        return [value]
    pictures = list(value) if several else [value]  # type: ignore[arg-type]
    return [_here(picture, str(column)) for picture in pictures]


def shows_pictures(record: Mapping[str, Any]) -> bool:
    """Whether a record's turns hold parts that are pictures."""
    turns = record.get("messages")
    parts = (t.get("content") for t in turns if isinstance(t, Mapping)) if isinstance(turns, list) else ()
    return any(isinstance(p, Mapping) and p.get("type") in _KINDS for c in parts if isinstance(c, list) for p in c)


def placed(messages: Any, pictures: Sequence[Any]) -> tuple[Any, list[Any]]:
    """The turns with HOLE where a picture stands, and the pictures in that order.

    Pictures of the columns that no turn makes a place for come first in the first user turn. RowProblem for fewer
    pictures than places, more than there are places for, and a picture in an assistant's turn. What is no conversation
    at all is left to whoever reads turns.
    """
    if not isinstance(messages, list | tuple):
        return messages, []
    turns, own = list[Any](), list[Any]()
    for i, turn in enumerate(messages):
        made, found = _turn(turn, f"messages[{i}]", bool(pictures)) if isinstance(turn, Mapping) else (turn, [])
        turns.append(made)
        own += found
    places = sum(1 for picture in own if picture is None)
    if pictures and not own:
        return _before(turns, len(pictures)), list(pictures)
    if places != len(pictures):
        what = f"the row has {_count(len(pictures), 'picture')}, and {_count(places, 'place')} for them in its turns"
        remedy = "write one {type: image} part (or <image> in the text) for each picture of the column images"
        raise RowProblem("images", what, remedy)
    rest = iter(pictures)
    return turns, [next(rest) if picture is None else picture for picture in own]


def _count(n: int, what: str) -> str:
    return f"{'no' if n == 0 else n} {what}{'' if n == 1 else 's'}"


def _turn(turn: Mapping[str, Any], field: str, shown: bool) -> tuple[dict[str, Any], list[Any]]:
    """A turn with HOLE for each picture, and the pictures: None for one that the columns hold."""
    content, found, parts = turn.get("content"), list[Any](), list[Any]()
    pieces = content if isinstance(content, list | tuple) else [content] if isinstance(content, str) else []
    for k, part in enumerate(pieces):
        text = part if isinstance(part, str) else part.get("text") if isinstance(part, Mapping) else None
        if isinstance(part, Mapping) and part.get("type") in _KINDS:
            found.append(_own(part, f"{field}.content[{k}]"))
            parts.append({"type": "text", "text": HOLE})
        elif isinstance(text, str):
            if HOLE in text:
                what = "it holds a letter of private use that stands for pictures here"
                raise RowProblem(f"{field}.content", what, f"take U+{ord(HOLE):04X} out")
            text, more = WRITTEN.subn(HOLE, text) if shown else (text, 0)
            found += [None] * more
            parts.append({**part, "text": text} if isinstance(part, Mapping) else text)
        else:
            parts.append(part)
    if found and turn.get("role") == "assistant":
        what = "a picture stands in the assistant's answer, and models of this task write text alone"
        raise RowProblem(f"{field}.content", what, "show it in a user's turn")
    made = parts[0] if isinstance(content, str) and parts else parts if pieces else content
    return {**turn, "content": made}, found


def _own(part: Mapping[str, Any], field: str) -> Any:
    """A part's own picture; None where the columns hold it. RowProblem for an address."""
    kind = str(part.get("type"))
    for name in dict.fromkeys((kind, "image", "image_url", "url", "path", "bytes", "base64")):
        value = part.get(name)
        if isinstance(value, Mapping) and "url" in value:
            value = value["url"]
        if value is None or value == "":
            continue
        if name == "base64":
            value = f"data:;base64,{value}"
        if isinstance(value, str) and value.startswith("data:"):
            return _decoded(value, field)
        return _here(value, field)
    return None


def _here(value: Any, field: str) -> Any:
    """A picture that is here. RowProblem for an address."""
    if isinstance(value, str) and re.match(r"[a-z][a-z0-9+.-]+://", value):
        what = "the picture is an address, and none is fetched while rows are read"
        raise RowProblem(field, what, "download it, and write its path relative to the data file")
    return value


def _decoded(url: str, field: str) -> bytes:
    try:
        return base64.b64decode(url.partition(",")[2], validate=True)
    except (binascii.Error, ValueError):
        what = "the data: address holds no base64"
        raise RowProblem(field, what, "write data:image/png;base64,...") from None


def _before(turns: list[Any], count: int) -> list[Any]:
    """The turns, the first user's with `count` places before what it says."""
    for i, turn in enumerate(turns):
        if isinstance(turn, Mapping) and turn.get("role") == "user":
            content = turn.get("content")
            holes = [{"type": "text", "text": HOLE}] * count
            said = [content] if isinstance(content, str) else list(content or [])
            return [*turns[:i], {**turn, "content": [*holes, *said]}, *turns[i + 1 :]]
    raise RowProblem("messages", "the row has pictures, and no user turn that could show them", _EXAMPLE)


class Shown:
    """A tokenizer whose chat template is shown pictures as the parts of content that they are.

    In what it renders, HOLE stands for the model's picture token, so that everything around it (and where a template
    puts pictures) is the template's own. A template that knows no parts is given the token in the text, a line before
    what follows, as LLaVA was trained.
    """

    def __init__(self, tokenizer: Any, marker: str):
        self._own, self._marker = tokenizer, marker

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._own(*args, **kwargs)

    def apply_chat_template(self, conversation: Sequence[Mapping[str, Any]], **how: Any) -> Any:
        """The text, with HOLE for each picture. RowProblem where the template shows more or fewer than there are."""
        written = parts_known(self._own, str(self._own.chat_template), self._marker)
        turns = [_with_parts(t) if written else _in_text(t, self._marker) for t in conversation]
        if written and system_in_parts(self._own, str(self._own.chat_template)):
            turns = [_as_parts(t) if t.get("role") == "system" else t for t in turns]
        text = self._own.apply_chat_template(turns, **how)
        if not isinstance(text, str):
            return text
        wanted = sum(_texts(t).count(HOLE) for t in conversation)
        if (shown := text.count(self._marker)) != wanted:
            reason = f"of {_count(wanted, 'picture')} the chat template writes {shown} ({self._marker})"
            remedy = f"take {self._marker} out of texts, or use the model's own template"
            if not wanted:
                remedy = f"add a column images with the picture, or take {self._marker} out of the text"
            raise RowProblem("messages", reason, remedy)
        return text.replace(self._marker, HOLE)


@lru_cache(maxsize=8)
def shown_by(tokenizer: Any, marker: str) -> Any:
    """One such tokenizer for each, since what is found of a template is kept by it."""
    return Shown(tokenizer, marker)


@lru_cache(maxsize=8)
def parts_known(tokenizer: Any, template: str, marker: str) -> bool:
    """Whether a chat template writes the picture token for a part {type: image}, once, and the texts beside it."""
    shown = [{"type": "text", "text": _FIRST}, {"type": "image"}, {"type": "text", "text": _THEN}]
    said = dialect_of(tokenizer).write([{"role": "assistant", "content": _SAID}])
    try:
        text = render(tokenizer, [{"role": "user", "content": shown}, *said])
    except (RowProblem, ModelError):
        return False
    words = (_FIRST, _THEN, _SAID)
    return text.count(marker) == 1 and all(text.count(w) == 1 for w in words) and "'type'" not in text


@lru_cache(maxsize=8)
def system_in_parts(tokenizer: Any, template: str) -> bool:
    """Whether a chat template shows a system turn only where its content is parts (SmolVLM's)."""
    dialect = dialect_of(tokenizer)
    said = [{"role": "user", "content": _THEN}, {"role": "assistant", "content": _SAID}]
    found = []
    for turn in ({"role": "system", "content": _FIRST}, _as_parts({"role": "system", "content": _FIRST})):
        try:
            found.append(_FIRST in render(tokenizer, [dict(turn), *dialect.write(said)]))
        except (RowProblem, ModelError):
            found.append(False)
    return found == [False, True]


def _as_parts(turn: Mapping[str, Any]) -> Mapping[str, Any]:
    content = turn.get("content")
    return {**turn, "content": [{"type": "text", "text": content}]} if isinstance(content, str) else turn


def _texts(turn: Mapping[str, Any]) -> str:
    content = turn.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list | tuple) else []
    return "".join(str(p.get("text", "")) for p in parts if isinstance(p, Mapping))


def _with_parts(turn: Mapping[str, Any]) -> Mapping[str, Any]:
    said = _texts(turn)
    if HOLE not in said:
        return turn
    parts = list[dict[str, Any]]()
    for i, text in enumerate(said.split(HOLE)):
        parts += [{"type": "image"}] if i else []
        parts += [{"type": "text", "text": text}] if text else []
    return {**turn, "content": parts}


def _in_text(turn: Mapping[str, Any], marker: str) -> Mapping[str, Any]:
    content = turn.get("content")
    if isinstance(content, str):
        return {**turn, "content": content.replace(HOLE, f"{marker}\n")}
    if not isinstance(content, list | tuple):
        return turn
    parts = [{**p, "text": p["text"].replace(HOLE, f"{marker}\n")} if "text" in p else p for p in content]
    return {**turn, "content": parts}
