"""ShareGPT's conversations as turns of OpenAI's form: speakers become roles, a `function_call` becomes the assistant's
tool calls, and an `observation` the turn of the tool that was called.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from tunewright.contract.records import RowProblem
from tunewright.errors import did_you_mean
from tunewright.tasks._turns import DETAILS, FLAGS, REASONING

ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "bing": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
    "function_call": "assistant",
}
"""ShareGPT's speakers -> roles of a chat template."""
KEPT = ("weight", "name", "tool_calls", "tool_call_id", *FLAGS, *DETAILS, *REASONING)
"""What a turn may say beside its speaker and its words."""
SHAPE = 'write {"from": "human", "value": "..."}'
CALL = 'write the value as JSON: {"name": "...", "arguments": {...}}'
_THOUGHT = re.compile(r"\s*<think>(.*?)</think>", re.DOTALL)


def turns_of(conversation: Any) -> list[dict[str, Any]]:
    """The turns of `conversations`. RowProblem for what is no list of turns, or a call that is not JSON."""
    if not isinstance(conversation, list | tuple):
        raise RowProblem(
            "conversations",
            "a list of turns is needed",
            'write [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}]',
        )
    turns = [_turn(turn, f"conversations[{i}]") for i, turn in enumerate(conversation)]
    _number(turns)
    return turns


def _turn(turn: Any, field: str) -> dict[str, Any]:
    if not isinstance(turn, dict):
        raise RowProblem(field, "a turn is a mapping", SHAPE)
    speaker, value = turn.get("from", turn.get("role")), turn.get("value", turn.get("content"))
    if speaker is None or value is None and not turn.get("tool_calls"):
        raise RowProblem(field, "a turn needs 'from' and 'value'", SHAPE)
    role = ROLES.get(str(speaker).lower())
    if role is None:
        raise RowProblem(f"{field}.from", f"no speaker is called '{speaker}'", did_you_mean(str(speaker), ROLES))
    kept = {name: turn[name] for name in KEPT if turn.get(name) is not None}
    if str(speaker).lower() == "function_call":
        thought, calls = _calls(value, f"{field}.value")
        return {
            "role": role,
            "content": "",
            **kept,
            "tool_calls": calls,
            **({REASONING[0]: thought} if thought else {}),
        }
    if role == "tool" and not isinstance(value, str) and not _is_parts(value):
        value = json.dumps(value, ensure_ascii=False)  # a result that was not written as text
    return {"role": role, "content": value, **kept}


def _is_parts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(p, str) or isinstance(p, dict) and "text" in p for p in value)


def _calls(value: Any, field: str) -> tuple[str, list[Any]]:
    """What was thought before a call, and the call or calls, from JSON or from an object or a list."""
    thought = ""
    if isinstance(value, str):
        found = _THOUGHT.match(value)
        thought, text = (found.group(1).strip(), value[found.end() :]) if found else ("", value)
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            why = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
            raise RowProblem(field, f"a function_call is not JSON: {why}", CALL) from None
    calls = value if isinstance(value, list) else [value]
    if not calls or not all(isinstance(call, dict) for call in calls):
        raise RowProblem(field, "a function_call is an object, or a list of objects", CALL)
    return thought, calls


def _number(turns: Sequence[dict[str, Any]]) -> None:
    """Give calls without an id one, and results the id and name of the call that they answer, in order: templates ask
    for these (Mistral's for nine letters), and ShareGPT has no room for them.
    """
    waiting: list[dict[str, Any]] = []
    count = 0
    for turn in turns:
        if turn["role"] == "assistant":
            waiting = []
            calls = turn.get("tool_calls")
            if isinstance(calls, list) and all(isinstance(c, dict) for c in calls):
                turn["tool_calls"] = waiting = [{"id": f"call{count + k:05d}", **call} for k, call in enumerate(calls)]
                waiting, count = list(waiting), count + len(calls)
        elif turn["role"] == "tool" and waiting:
            call = waiting.pop(0)
            name = call.get("name") or (call.get("function") or {}).get("name")
            turn.setdefault("tool_call_id", call["id"])
            if isinstance(name, str):
                turn.setdefault("name", name)
