"""What a chat template reads, found by asking it: how it wants content, arguments and reasoning.

A template is a program, and templates differ: some print text only, some lists of parts only; some print arguments as
an object, some paste JSON text; reasoning has three names. Each is asked once, with words that stand nowhere else, and
what comes out tells. A turn is then written in the template's own dialect, and is still checked afterwards.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tunewright.contract.records import RowProblem
from tunewright.machine.limits import memory_within
from tunewright.tasks._ends import end_tokens
from tunewright.tasks._render import render
from tunewright.tasks._turns import REASONING, Turn

ROOM = 2 << 30  # bytes
ROLES = ("system", "user", "assistant", "tool")
PART = "part of type thinking"
_NAME = "Qnameq"
_ASKED, _SAID, _MORE, _KEY, _VALUE, _THOUGHT = "Qaskedq", "Qsaidq", "Qmoreq", "Qkeyq", "Qvalueq", "Qthoughtq"
PROBE = {
    "type": "function",
    "function": {
        "name": "Qtoolq",
        "description": "d",
        "parameters": {"type": "object", "properties": {_KEY: {"type": "string", "description": "d"}}},
    },
}


@dataclass(frozen=True)
class Dialect:
    """`parts`: the roles whose content is written as a list of parts. `text_arguments`: arguments are written as JSON
    text. `reasoning`: the field from which an answer's reasoning is read, PART for a part of its content, None for
    neither. `tail`: what stands at the end of every text and is no part of its last turn. `ends`: what ends an answer,
    and a call, where the template writes it only once another turn follows. `tools`: whether descriptions of tools are
    shown. `names`: the roles whose turns show the name that they have.
    """

    parts: frozenset[str] = frozenset()
    text_arguments: bool = False
    reasoning: str | None = None
    tail: str = ""
    ends: tuple[str, str] = ("", "")
    tools: bool = True
    names: frozenset[str] = frozenset()

    def write(self, turns: Sequence[Turn]) -> list[Turn]:
        """The turns as the template reads them."""
        return [self._written(turn) for turn in turns]

    def _written(self, turn: Turn) -> Turn:
        out = dict(turn)
        if turn["role"] in self.parts:
            out["content"] = [{"type": "text", "text": turn["content"]}]
        if self.text_arguments and "tool_calls" in turn:
            out["tool_calls"] = [_with_text(call) for call in turn["tool_calls"]]
        thought = out.pop(REASONING[0], None)
        if thought is not None and self.reasoning == PART:
            said = [{"type": "text", "text": turn["content"]}] if turn["content"] else []
            out["content"] = [{"type": "thinking", "thinking": thought}, *said]
        elif thought is not None:
            out[self.reasoning or REASONING[0]] = thought
        return out


def _with_text(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    return {**call, "function": {**function, "arguments": json.dumps(function["arguments"], ensure_ascii=False)}}


def dialect_of(tokenizer: Any) -> Dialect:
    """The dialect of a tokenizer's chat template."""
    return _dialect_of(tokenizer, str(tokenizer.chat_template))


@lru_cache(maxsize=8)
def _dialect_of(tokenizer: Any, template: str) -> Dialect:
    with memory_within(ROOM):  # what a template does at its worst it mostly does at once
        return _asked(tokenizer)


def _asked(tokenizer: Any) -> Dialect:
    plain = Dialect()
    talk = [{"role": "user", "content": _ASKED}, {"role": "assistant", "content": _SAID}]
    parts = _first(
        tokenizer, talk, [plain, *(Dialect(frozenset(r)) for r in (("user",), ("user", "assistant"), ROLES))]
    ).parts
    called: list[Turn] = [
        talk[0],
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {"type": "function", "id": "Qcall0001", "function": {"name": "Qtoolq", "arguments": {_KEY: _VALUE}}}
            ],
        },
        {"role": "tool", "name": "Qtoolq", "tool_call_id": "Qcall0001", "content": _MORE},
        talk[1],
    ]
    text = _first(tokenizer, called, [Dialect(parts), Dialect(parts, True)], tools=[PROBE]).text_arguments
    thinking = [talk[0], {**talk[1], REASONING[0]: _THOUGHT}]
    reasoning = _first(
        tokenizer, thinking, [Dialect(parts, text, name) for name in (*REASONING, PART)], fall=plain
    ).reasoning
    said = Dialect(parts, text, reasoning)
    ends = (_end(tokenizer, said, talk, talk[0]), _end(tokenizer, said, called[:2], called[2], tools=[PROBE]))
    tail = _tail(tokenizer, said.write([*talk, talk[0]]))
    shows = _shows_tools(tokenizer, said.write(talk))
    return Dialect(parts, text, reasoning, tail, ends, shows, _shown_names(tokenizer, said, talk))


def _shows_tools(tokenizer: Any, talk: Sequence[Turn]) -> bool:
    try:
        return PROBE["function"]["name"] in render(tokenizer, talk, tools=[PROBE])  # type: ignore[index]
    except RowProblem:  # that cannot be told: each row is looked at
        return True


def _shown_names(tokenizer: Any, dialect: Dialect, talk: Sequence[Turn]) -> frozenset[str]:
    """The roles whose turns show their `name`."""
    shown = set()
    for role in ("system", "user", "assistant"):
        turns = [{"role": "system", "content": _MORE}, *talk] if role == "system" else talk
        named = [{**turn, "name": _NAME} if turn["role"] == role else turn for turn in turns]
        try:
            if _NAME in render(tokenizer, dialect.write(named)):
                shown.add(role)
        except RowProblem:  # no such turn under this template
            continue
    return frozenset(shown)


def _tail(tokenizer: Any, turns: Sequence[Turn], *, tools: Any = None) -> str:
    """What stands at the end of every text and is no part of its last turn: the header of a next answer that nobody
    asked for, or an instruction. It follows the end of a question and of an answer alike, stays where the answer is
    asked for, and goes when another turn follows. "" under most templates.
    """
    try:
        one, two, three = (render(tokenizer, turns[:n], tools=tools) for n in (1, 2, 3))
        prompt = render(tokenizer, turns[:1], tools=tools, prompt=True)
    except RowProblem:  # some ask for tools
        return _tail(tokenizer, turns, tools=[PROBE]) if tools is None else ""
    if three.startswith(two) or not prompt.startswith(one):
        return ""
    shared = os.path.commonprefix((one[::-1], two[::-1]))[::-1]
    at = end_tokens(tokenizer).pattern.search(shared)
    return shared[at.end() :] if at and shared[at.end() :].strip() else ""


def _end(tokenizer: Any, dialect: Dialect, turns: Sequence[Turn], following: Turn, *, tools: Any = None) -> str:
    """What ends an answer and is written only once another turn follows; "" where it is always written, or never.

    GLM's answers end with the token that opens the next turn.
    """
    try:
        two = render(tokenizer, dialect.write(turns), tools=tools)
        three = render(tokenizer, dialect.write([*turns, following]), tools=tools)
    except RowProblem:
        return ""
    if end_tokens(tokenizer).ends(two) or not three.startswith(two):
        return ""
    return end_tokens(tokenizer).first(three[len(two) :])


def _first(
    tokenizer: Any,
    turns: Sequence[Turn],
    dialects: Sequence[Dialect],
    *,
    tools: Any = None,
    fall: Dialect | None = None,
) -> Dialect:
    """The first dialect in which nothing of the turns is lost; without one, `fall` or the first of all."""
    wanted = [w for w in (_ASKED, _SAID, _MORE, _KEY, _VALUE, _THOUGHT) if w in repr(turns)]
    for dialect in dialects:
        try:
            text = render(tokenizer, dialect.write(turns), tools=tools)
        except RowProblem:
            continue
        # what is printed as Python shows it ({'a': ...}) was meant to be text, and parts as JSON are no text either
        shown = (f"'{_KEY}'", f"'{_SAID}'", f'"{_SAID}"')
        if all(w in text for w in wanted) and not any(s in text for s in shown):
            return dialect
    return fall or dialects[0]
