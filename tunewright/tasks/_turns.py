"""A conversation as data has it, brought to the one form that chat templates are given.

Data writes the same turn in many ways: content as text or as a list of parts, arguments as an object or as JSON text,
a call under `tool_calls` or `function_call`, and Arrow fills every key that any row has with null. Here they become
text, objects and calls of OpenAI's form; what cannot be brought to it is a RowProblem.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tunewright.contract.records import RowProblem

SHAPE = 'write [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]'
CALL = 'write {"type": "function", "function": {"name": "...", "arguments": {...}}}'
TOOLS = "write a list of tool descriptions (JSON schema)"
REASONING = ("reasoning_content", "reasoning", "thinking")
"""The fields in which data and templates keep what an assistant thought before it answered."""

FLAGS = {"train": True, "training": True, "train_on_turn": True, "loss": True, "masked": False}
"""Names under which data says whether a turn is trained (axolotl, ms-swift, torchtune), and what says that it is."""
DETAILS = ("train_detail", "training_detail")
"""Names under which axolotl's data says which characters of a turn are trained."""

Turn = dict[str, Any]


def checked(messages: Any) -> tuple[list[Turn], list[float]]:
    """The turns without their weights, and the weights. RowProblem for what is no conversation."""
    if not isinstance(messages, list | tuple) or not messages:
        raise RowProblem("messages", "no list of turns", SHAPE)
    turns, weights = [], []
    for i, message in enumerate(messages):
        field = f"messages[{i}]"
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise RowProblem(field, "a turn needs a role", SHAPE)
        turn = _turn(message, field)
        turns.append(turn)
        weights.append(_weight(message, turn["role"], field))
    if not any(t["role"] == "assistant" for t in turns):
        raise RowProblem("messages", "no turn is the assistant's, so nothing would be trained", SHAPE)
    return turns, weights


def _turn(message: Mapping[str, Any], field: str) -> Turn:
    assistant, content = message["role"] == "assistant", message.get("content")
    text, thought = _text(content, field)
    calls = _calls(message, field)
    if content is None and not calls:
        raise RowProblem(field, "a turn needs content (or tool_calls)", SHAPE)
    if assistant and not calls and not text.strip():
        raise RowProblem(f"{field}.content", "the assistant's answer is empty", "write the answer, or take the row out")
    known = ("weight", *FLAGS, *DETAILS, "content", "tool_calls", "function_call", *REASONING)
    turn = {k: v for k, v in message.items() if k not in known and v is not None}
    if turn["role"] == "function":  # the older name of a tool's turn
        turn["role"] = "tool"
    turn["content"] = text
    if calls:
        turn["tool_calls"] = calls
    thought = _thought(message, field) or thought
    if thought:
        turn[REASONING[0]] = thought
    return turn


def _weight(message: Mapping[str, Any], role: str, field: str) -> float:
    """A turn's loss weight, from its `weight` and from what says yes or no; 1 for answers without either."""
    assistant, weight = role == "assistant", message.get("weight")
    for name in DETAILS:
        if message.get(name):
            what = "parts of a turn cannot be trained"
            raise RowProblem(f"{field}.{name}", what, "cut the turn into several, each with a weight of its own")
    for name, yes in FLAGS.items():
        flag = message.get(name)
        if flag is None:
            continue
        if flag not in (True, False):
            raise RowProblem(f"{field}.{name}", f"{flag!r:.60} is neither true nor false", "write true or false")
        trained = bool(flag) == yes
        if trained and not assistant or weight is not None and bool(weight) != trained:
            what = "says otherwise than the turn's weight" if assistant else f"a '{role}' turn cannot be trained"
            raise RowProblem(
                f"{field}.{name}", what, "only an assistant's turn is trained, and not if one of them says no"
            )
        weight = weight if trained else 0.0
    weight = (1.0 if assistant else 0.0) if weight is None else weight
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < float("inf"):
        raise RowProblem(f"{field}.weight", f"{weight!r} is no weight", "write a number of at least 0")
    if weight and not assistant:
        raise RowProblem(
            f"{field}.weight", f"a '{role}' turn cannot be trained", "weights above 0 belong to assistant turns"
        )
    return float(weight)


def _text(content: Any, field: str) -> tuple[str, str]:
    """A turn's text and what it thought, from text or from a list of parts, which are joined as they stand."""
    if content is None or isinstance(content, str):
        return content or "", ""
    if not isinstance(content, list | tuple):
        raise RowProblem(f"{field}.content", f"text is needed, not {type(content).__name__}", SHAPE)
    said, thought = [], []
    for k, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        text = part if isinstance(part, str) else _part(part, "text")
        if kind in ("thinking", "reasoning"):
            thought.append(_part(part, "thinking") or _part(part, "reasoning") or text or "")
        elif text is not None and kind in (None, "text", "input_text", "output_text"):
            said.append(text)
        else:
            what = f"a part of type '{kind}'" if isinstance(kind, str) else f"a {type(part).__name__}"
            raise RowProblem(
                f"{field}.content[{k}]", f"{what} is no text", 'write parts as {"type": "text", "text": "..."}'
            )
    return "".join(said), "\n".join(thought)


def _part(part: Any, key: str) -> str | None:
    """A part's text under a key; Mistral's thinking parts hold parts again."""
    value = part.get(key) if isinstance(part, dict) else None
    if isinstance(value, list):
        return "".join(_part(p, "text") or "" for p in value)
    return value if isinstance(value, str) else None


def _thought(message: Mapping[str, Any], field: str) -> str:
    for name in REASONING:
        value = message.get(name)
        if value is None or value == "":
            continue
        if not isinstance(value, str):
            raise RowProblem(f"{field}.{name}", f"text is needed, not {type(value).__name__}", "write it as text")
        return value
    return ""


def _calls(message: Mapping[str, Any], field: str) -> list[dict[str, Any]]:
    """A turn's calls in OpenAI's form: {"type", "id" if any, "function": {"name", "arguments": object}}."""
    name, calls = "tool_calls", message.get("tool_calls")
    if not calls and message.get("function_call"):  # the older name, for a single call
        name, calls = "function_call", message["function_call"]
    field = f"{field}.{name}"
    calls = _parsed(calls, field, CALL) if isinstance(calls, str) else calls
    if isinstance(calls, dict):
        calls = [calls]
    if not isinstance(calls, list | tuple | None):
        raise RowProblem(field, f"a list of calls is needed, not {type(calls).__name__}", CALL)
    return [_call(call, f"{field}[{k}]") for k, call in enumerate(calls or ())]


def _call(call: Any, field: str) -> dict[str, Any]:
    call = _parsed(call, field, CALL) if isinstance(call, str) else call
    if not isinstance(call, dict):
        raise RowProblem(field, f"a call is an object, not {type(call).__name__}", CALL)
    function = call.get("function")
    function = function if isinstance(function, dict) else call
    if not isinstance(function.get("name"), str) or not function["name"]:
        raise RowProblem(field, "a call needs the function's name", CALL)
    rest = {k: v for k, v in call.items() if k not in ("function", "name", "arguments", "type") and v is not None}
    made = {"name": function["name"], "arguments": _arguments(function.get("arguments"), f"{field}.arguments")}
    return {"type": "function", **rest, "function": made}


def _arguments(given: Any, field: str) -> dict[str, Any]:
    """Arguments as an object. Nulls of an object are Arrow's and go; in JSON text a null is meant and stays."""
    if isinstance(given, str):
        given = _parsed(given, field, 'write an object: {"city": "Rome"}') if given.strip() else {}
    elif isinstance(given, list) and all(isinstance(p, tuple) and len(p) == 2 for p in given):
        given = without_nulls(dict(given))  # an Arrow map
    else:
        given = without_nulls(given)
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise RowProblem(field, f"an object is needed, not {type(given).__name__}", 'write {"city": "Rome"}')
    return given


def without_nulls(value: Any) -> Any:
    """A value without the keys that are null, at any depth; nulls in lists stay."""
    if isinstance(value, dict):
        return {k: without_nulls(v) for k, v in value.items() if v is not None}
    if isinstance(value, list | tuple):
        return [without_nulls(v) for v in value]
    return value


def _parsed(text: str, field: str, remedy: str) -> Any:
    if not text.strip():
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        why = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
        raise RowProblem(field, f"not JSON: {why}", remedy) from None


def parsed_tools(tools: Any) -> list[dict[str, Any]] | None:
    """`tools` as a list of {"type": "function", "function": {...}}, JSON text parsed and Arrow's nulls taken out.

    None for no tools. RowProblem for what is no list of descriptions.
    """
    tools = _parsed(tools, "tools", TOOLS) if isinstance(tools, str) else without_nulls(tools)
    if tools is None:
        return None
    if not isinstance(tools, list | tuple):
        raise RowProblem("tools", f"a list is needed, not {type(tools).__name__}", TOOLS)
    return [_tool(tool, f"tools[{k}]") for k, tool in enumerate(tools)] or None


def _tool(tool: Any, field: str) -> dict[str, Any]:
    tool = _parsed(tool, field, TOOLS) if isinstance(tool, str) else tool
    if not isinstance(tool, dict):
        raise RowProblem(field, f"a description is an object, not {type(tool).__name__}", TOOLS)
    function = tool.get("function", {k: v for k, v in tool.items() if k != "type"})
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise RowProblem(field, "a description needs the function's name", TOOLS)
    if isinstance(function.get("parameters"), str):
        function = {**function, "parameters": _parsed(function["parameters"], f"{field}.parameters", TOOLS) or {}}
    return {**tool, "function": function} if "function" in tool else {"type": "function", "function": function}
