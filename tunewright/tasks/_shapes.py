"""What a template leaves out of conversations of one shape, whatever their words.

A short text ("a", "end") may stand in a rendered turn by chance, in a marker or in another field. So the shape of the
conversation (its roles, and which of them say, call or are given tools) is rendered once with words that stand nowhere
else; the answer is kept, since a data set has few shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from tunewright.contract.records import RowProblem
from tunewright.tasks._dialect import PROBE, Dialect
from tunewright.tasks._render import render
from tunewright.tasks._turns import Turn

Shape = tuple[tuple[str, bool, tuple[int, ...]], ...]
"""For each turn: its role, whether it has content, and the number of arguments of each of its calls."""


def left_out(tokenizer: Any, dialect: Dialect, turns: Sequence[Turn], tools: Any) -> dict[int, frozenset[str]]:
    """Turn -> the beginnings of its fields that the template leaves out of every conversation of this shape."""
    shape = tuple(
        (t["role"], bool(t["content"].strip()), tuple(len(c["function"]["arguments"]) for c in t.get("tool_calls", ())))
        for t in turns
    )
    return dict(_left_out(tokenizer, str(tokenizer.chat_template), dialect, shape, bool(tools)))


@lru_cache(maxsize=1024)
def _left_out(
    tokenizer: Any, template: str, dialect: Dialect, shape: Shape, tools: bool
) -> tuple[tuple[int, frozenset[str]], ...]:
    turns, words = list[Turn](), dict[int, dict[str, str]]()
    for i, (role, says, calls) in enumerate(shape):
        said, made = f"Qsaid{i}q" if says else "", []
        words[i] = {"content": said} if says else {}
        for k, count in enumerate(calls):
            name, values = f"Qname{i}x{k}q", {f"Qkey{i}x{k}x{j}q": f"Qvalue{i}x{k}x{j}q" for j in range(count)}
            made.append({"id": f"Qcall{k:04d}", "type": "function", "function": {"name": name, "arguments": values}})
            words[i] |= {f"tool_calls[{k}].function.name": name}
            words[i] |= {f"tool_calls[{k}].function.arguments.{key}": key for key in values}
            words[i] |= {f"tool_calls[{k}].function.arguments.{key}.": value for key, value in values.items()}
        more: dict[str, Any] = {"tool_calls": made} if made else {}
        if role == "tool":
            more = {"name": "Qname", "tool_call_id": "Qcall0000"}
        turns.append({"role": role, "content": said, **more})
    try:
        text = render(tokenizer, dialect.write(turns), tools=[PROBE] if tools else None)
    except RowProblem:  # of these words: the row's own may be taken
        return ()
    lost = {
        i: frozenset(f.split("Qkey")[0] for f, word in fields.items() if word not in text)
        for i, fields in words.items()
    }
    return tuple((i, fields) for i, fields in lost.items() if fields)
