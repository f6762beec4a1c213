"""Calls of tools in an answer, in the form that the model's own chat template writes them in.

The template is asked once, with a name and an argument that stand nowhere else, and what comes out tells: a JSON object
with the name in it (Hermes, Qwen, Llama, Mistral), a name and then a JSON object of arguments (DeepSeek, harmony), or
another form (`tagged_calls`: tags for each argument, Python). What is none of these is refused. Where a template shows
no tools, they stand in the system turn, with Hermes' form of a call.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunewright.contract.records import RowProblem
from tunewright.measure.tagged_calls import Tagged, tagged
from tunewright.tasks._dialect import PROBE, dialect_of
from tunewright.tasks._render import render

_NAME, _KEY, _VALUE, _ID = PROBE["function"]["name"], "Qkeyq", "Qvalueq", "Qcall0001"  # type: ignore[index]
_TURNS: list[dict[str, Any]] = [
    {"role": "user", "content": "Qaskedq"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "id": _ID, "function": {"name": _NAME, "arguments": {_KEY: _VALUE}}}],
    },
]


@dataclass(frozen=True)
class Call:
    """One call: the tool's name and its arguments."""

    name: str
    arguments: Any


@dataclass(frozen=True)
class Form:
    """How calls are written. `opening`: what stands before one, "" where the answer begins with it. `middle`: what
    stands between the name and its arguments; None where one JSON object has both, under the keys `name` and
    `arguments`. `keyed`: the object has the name as its one key. `tagged`: no JSON at all.
    """

    opening: str
    middle: str | None = None
    name: str = "name"
    arguments: str = "arguments"
    keyed: bool = False
    tagged: Tagged | None = None

    def calls(self, answer: str) -> list[Call]:
        """The calls of an answer whose special tokens are shown; none where it has none in this form."""
        if self.tagged is not None:
            return [Call(name, arguments) for name, arguments in self.tagged.calls(answer)]
        return list(self._whole(answer) if self.middle is None else self._split(answer))

    def _whole(self, answer: str) -> Iterator[Call]:
        opened = re.search(_loosely(self.opening), answer) if self.opening else re.match(r"\s*\[?\s*(?={)", answer)
        if opened is None:
            return
        for _, found in objects(answer, opened.end()):
            if self.keyed:
                yield from (Call(name, _object(arguments)) for name, arguments in found.items())
                continue
            inner: dict[str, Any] = found["function"] if isinstance(found.get("function"), dict) else found
            if isinstance(inner.get(self.name), str) and self.arguments in inner:
                yield Call(inner[self.name], _object(inner[self.arguments]))

    def _split(self, answer: str) -> Iterator[Call]:
        pattern = (
            (_loosely(self.opening) or r"\A") + r"\s*(?P<name>[\w.:-]+?)" + _loosely(self.middle or "") + r"\s*(?={)"
        )
        for m in re.finditer(pattern, answer):
            if (found := _decoded(answer, m.end())) is not None:
                yield Call(m["name"], found[1])


HERMES = Form("<tool_call>")
"""The form that is asked for where a chat template shows no tools, or there is none."""


def form_of(tokenizer: Any) -> Form | None:
    """The form of a tokenizer's chat template; None where that shows no tools, so that a prompt has to say it.

    RowProblem where the template writes calls in a form that cannot be read here.
    """
    if not getattr(tokenizer, "chat_template", None):
        return None
    dialect = dialect_of(tokenizer)
    if not dialect.tools:
        return None
    try:
        text = render(tokenizer, dialect.write(_TURNS), tools=[PROBE])
    except RowProblem:
        return None
    start = text.rfind("Qaskedq") + len("Qaskedq")
    prompt = render(tokenizer, dialect.write(_TURNS[:1]), tools=[PROBE], prompt=True)
    start = len(prompt) if text.startswith(prompt) else start
    if _NAME not in text[start:]:
        return None
    if (form := _form(text, start)) is not None:
        return form
    if (other := _tagged(tokenizer, dialect)) is not None:
        return other
    raise RowProblem(
        "tools",
        "the chat template writes calls in a form that is not read here (JSON, tags for each argument and Python are)",
        "take the pack out, or give the model folder a chat_template.jinja that writes calls as JSON",
    )


def _tagged(tokenizer: Any, dialect: Any) -> Form | None:
    """The form of a template that writes no JSON, read off a call of two arguments."""
    call = {"name": _NAME, "arguments": {_KEY: _VALUE, "Qotherkeyq": "Qothervalueq"}}
    turns = [_TURNS[0], {**_TURNS[1], "tool_calls": [{"type": "function", "id": _ID, "function": call}]}]
    try:
        text = render(tokenizer, dialect.write(turns), tools=[PROBE])
    except RowProblem:
        return None
    words = (_NAME, _KEY, _VALUE, "Qotherkeyq", "Qothervalueq")
    found = tagged(text, text.rfind("Qaskedq"), words, _last)
    return None if found is None else Form(found.opening, tagged=found)


def told(tools: Sequence[Mapping[str, Any]]) -> str:
    """The system turn's words where the template shows no tools."""
    listed = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    return (
        "You can call tools. To call one, answer with nothing but\n<tool_call>\n"
        '{"name": "NAME", "arguments": {"ARGUMENT": "VALUE"}}\n</tool_call>\n'
        f"If no tool fits, answer in plain words. The tools:\n{listed}"
    )


def objects(text: str, start: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
    """The JSON objects in a text from a place on, outermost ones, each with where it begins."""
    at = text.find("{", start)
    while at >= 0:
        found = _decoded(text, at)
        if found is not None:
            yield at, found[1]
        at = text.find("{", found[0] if found is not None else at + 1)


def _decoded(text: str, at: int) -> tuple[int, dict[str, Any]] | None:
    """(where it ends, the object) of the JSON object that begins at a place."""
    try:
        found, end = json.JSONDecoder().raw_decode(text, at)
    except (ValueError, RecursionError):
        return None
    return (end, found) if isinstance(found, dict) else None


def _object(arguments: Any) -> Any:
    """Arguments that are JSON text as what that says."""
    if not isinstance(arguments, str):
        return arguments
    try:
        return json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments


def _form(text: str, start: int) -> Form | None:
    wanted = {_KEY: _VALUE}
    for at, found in objects(text, start):
        inner = found["function"] if isinstance(found.get("function"), dict) else found
        name = next((k for k, v in inner.items() if v == _NAME), None)
        arguments = next((k for k, v in inner.items() if _object(v) == wanted), None)
        if name is not None and arguments is not None:
            return Form(_last(text[start:at].strip().removesuffix("[")), None, name, arguments)
        if found == {_NAME: wanted}:
            return Form(_last(text[start:at].strip().removesuffix("[")), keyed=True)
        named = text.rfind(_NAME, start, at)
        if found == wanted and named >= 0:
            return Form(_last(text[start:named]), text[named + len(_NAME) : at].strip())
    return None


_TAG = re.compile(r"<[^<>\s]+>|\[[A-Z_]+\]")


def _last(opening: str) -> str:
    """The last mark before a call: what stands before it may be an empty thought, or the end of the turn before."""
    word = (opening.split() or [""])[-1]
    tags = list(_TAG.finditer(word))
    return word[tags[-1].start() :] if tags else word


def _loosely(text: str) -> str:
    """A pattern of a text in which any white space may stand where it has some, and any id where the probe's stands."""
    return r"\s*".join(re.escape(word).replace(_ID, r"[\w-]+") for word in text.split())
