"""A conversation as text: rendered through the tokenizer's chat template, with the spans that the assistant says.

Spans come from rendered prefixes (transformers' own mask is empty where a template lacks `{% generation %}`), and each
prefix is asserted to be one of the whole.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from tunewright.contract.records import RowProblem

Segment = tuple[str, float]
"""Text and the loss weight of its tokens."""


def render(tokenizer: Any, messages: Sequence[dict[str, Any]], *, tools: Any = None, prompt: bool = False) -> str:
    """The chat template's text; with `prompt`, up to where the assistant speaks.

    RowProblem when the template refuses.
    """
    try:
        return tokenizer.apply_chat_template(list(messages), tools=tools, tokenize=False, add_generation_prompt=prompt)
    except Exception as error:  # templates raise whatever their author chose
        reason = f"the tokenizer's chat template refuses the conversation: {error}"
        raise RowProblem(
            "messages", reason, "write turns in the order that the template asks for (often user, assistant, user ...)"
        ) from None


def default_turn(tokenizer: Any) -> str:
    """The system turn that a template inserts by itself, "" where it does not or where that cannot be told."""
    return _default_turn(tokenizer, str(tokenizer.chat_template))


@lru_cache(maxsize=4)
def _default_turn(tokenizer: Any, template: str) -> str:
    user, answer = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
    try:
        one = tokenizer.apply_chat_template([user], tokenize=False)
        two = tokenizer.apply_chat_template([user, answer], tokenize=False)
        three = tokenizer.apply_chat_template([user, answer, user], tokenize=False)
    except Exception:  # a template that refuses these has no default to take out
        return ""
    if not three.startswith(two):
        return ""
    turn = three[len(two) :]
    if not turn or not one.endswith(turn):
        return ""
    before = one[: len(one) - len(turn)]
    bos = tokenizer.bos_token or ""
    # where the start token also opens every turn, the one in front belongs to the turn that is taken out
    alone = bos and before.startswith(bos) and not turn.startswith(bos)
    return before[len(bos) :] if alone else before


def assistant_segments(
    tokenizer: Any, messages: Sequence[dict[str, Any]], *, tools: Any = None, system: str | None = None
) -> tuple[list[Segment], str]:
    """Cut a rendered conversation into segments; what the assistant says and its end of turn have the turn's weight.

    Returns the segments (their texts joined are the whole) and the last answer's text. `system` as in EncodeOptions.
    Raises RowProblem when no turn is the assistant's or a rendered prefix is no prefix of the whole.
    """
    turns, weights = _checked(messages)
    has_system = turns[0]["role"] == "system"
    removed = default_turn(tokenizer) if system == "" and not has_system else ""
    if system and not has_system:
        turns, weights = [{"role": "system", "content": system}, *turns], [0.0, *weights]
    whole = render(tokenizer, turns, tools=tools)
    segments: list[Segment] = []
    answer, position = "", 0
    for i, (turn, weight) in enumerate(zip(turns, weights, strict=True)):
        if turn["role"] != "assistant":
            continue
        before = render(tokenizer, turns[:i], tools=tools, prompt=True)
        after = render(tokenizer, turns[: i + 1], tools=tools)
        if not whole.startswith(before) or not whole.startswith(after) or len(before) < position:
            reason = f"the text up to turn {i} is no prefix of the whole conversation under this chat template"
            raise RowProblem("messages", reason, "write one row for each assistant turn, with that turn last")
        said = whole[len(before) : len(after)]
        end = _end_of_turn(tokenizer, said)
        segments += [(whole[position : len(before)], 0.0), (said[:end], weight)]
        position = len(before) + end
        answer = turn["content"] if isinstance(turn.get("content"), str) and turn["content"] else said[:end]
    segments.append((whole[position:], 0.0))
    return _without(removed, segments, tokenizer.bos_token or ""), answer


def _without(removed: str, segments: list[Segment], bos: str) -> list[Segment]:
    text, weight = segments[0]
    start = 0 if text.startswith(removed) or not text.startswith(bos) else len(bos)
    if removed and text[start:].startswith(removed):
        segments[0] = (text[:start] + text[start + len(removed) :], weight)
    return [s for s in segments if s[0]]


def _end_of_turn(tokenizer: Any, said: str) -> int:
    """Where the turn's trained text ends: after its last special token, so that a line break after it is not
    trained.
    """
    ends = [said.rfind(t) + len(t) for t in tokenizer.all_special_tokens if t and t in said]
    return max(ends) if ends and not said[max(ends) :].strip() else len(said)


def _checked(messages: Any) -> tuple[list[dict[str, Any]], list[float]]:
    """The turns without their weights, and the weights. RowProblem for what is no conversation."""
    shape = 'write [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]'
    if not isinstance(messages, list | tuple) or not messages:
        raise RowProblem("messages", "no list of turns", shape)
    turns, weights = [], []
    for i, message in enumerate(messages):
        field = f"messages[{i}]"
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise RowProblem(field, "a turn needs a role", shape)
        content, calls = message.get("content"), message.get("tool_calls")
        if content is None and not calls:
            raise RowProblem(field, "a turn needs content (or tool_calls)", shape)
        if content is not None and not isinstance(content, str | list):
            raise RowProblem(f"{field}.content", f"text is needed, not {type(content).__name__}", shape)
        assistant = message["role"] == "assistant"
        if assistant and not calls and isinstance(content, str) and not content.strip():
            raise RowProblem(
                f"{field}.content", "the assistant's answer is empty", "write the answer, or take the row out"
            )
        weight = message.get("weight")
        weight = (1.0 if assistant else 0.0) if weight is None else weight
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < float("inf"):
            raise RowProblem(f"{field}.weight", f"{weight!r} is no weight", "write a number of at least 0")
        if weight and not assistant:
            raise RowProblem(
                f"{field}.weight",
                f"a '{message['role']}' turn cannot be trained",
                "weights above 0 belong to assistant turns",
            )
        turn = {k: v for k, v in message.items() if k != "weight" and v is not None}
        turn.setdefault("content", "")
        turns.append(turn)
        weights.append(float(weight))
    if not any(t["role"] == "assistant" for t in turns):
        raise RowProblem("messages", "no turn is the assistant's, so nothing would be trained", shape)
    return turns, weights


def parsed_tools(tools: Any) -> Any:
    """`tools` as a list: JSON text is parsed. RowProblem when it cannot be."""
    if tools in (None, "", [], "[]"):
        return None
    try:
        parsed = json.loads(tools) if isinstance(tools, str) else tools
    except json.JSONDecodeError as error:
        raise RowProblem("tools", f"not JSON: {error.msg}", "write a list of tool descriptions (JSON schema)") from None
    if not isinstance(parsed, list):
        raise RowProblem(
            "tools", f"a list is needed, not {type(parsed).__name__}", "write a list of tool descriptions (JSON schema)"
        )
    return parsed
