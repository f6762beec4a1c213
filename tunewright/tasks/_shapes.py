"""What a template makes of conversations of one shape, whatever their words: what it leaves out, and which words it
puts where an answer is trained.

A short text ("a", "end") may stand in a rendered turn by chance, in a marker or in another field. So the shape of the
conversation (its roles, and which of them say, think, call or are given tools) is rendered once with words that stand
nowhere else; the answer is kept, since a data set has few shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from tunewright.contract.records import RowProblem
from tunewright.tasks._dialect import PROBE, Dialect
from tunewright.tasks._found import SHORT, said_by
from tunewright.tasks._talk import Span, Talk
from tunewright.tasks._turns import REASONING, Turn

Shape = tuple[tuple[str, bool, bool, tuple[int, ...]], ...]
"""For each turn: its role, whether it has content and a thought, and the number of arguments of each of its calls."""
Words = dict[int, dict[str, str]]
"""For each turn, the words of its fields."""
TWICE = "more than once"


def _shape(turns: Sequence[Turn]) -> Shape:
    return tuple(
        (
            t["role"],
            bool(t["content"].strip()),
            bool(t.get(REASONING[0])),
            tuple(len(c["function"]["arguments"]) for c in t.get("tool_calls", ())),
        )
        for t in turns
    )


def left_out(talk: Talk) -> dict[int, frozenset[str]]:
    """Turn -> the beginnings of its fields that the template leaves out of every conversation of this shape."""
    template = str(talk.tokenizer.chat_template)
    return dict(_left_out(talk.tokenizer, template, talk.dialect, _shape(talk.turns), bool(talk.tools)))


@lru_cache(maxsize=1024)
def _left_out(
    tokenizer: Any, template: str, dialect: Dialect, shape: Shape, tools: bool
) -> tuple[tuple[int, frozenset[str]], ...]:
    turns, words = _made(shape)
    try:
        text = Talk(tokenizer, dialect, turns, [PROBE] if tools else None).render(turns)
    except RowProblem:  # of these words: the row's own may be taken
        return ()
    lost = {
        i: frozenset(f.split("Qkey")[0] for f, word in fields.items() if word not in text)
        for i, fields in words.items()
    }
    return tuple((i, fields) for i, fields in lost.items() if fields)


def mixed(talk: Talk, text: str, spans: dict[int, Span]) -> dict[int, int | str]:
    """Trained turn -> the turn of which words stand in its span too, or TWICE where its own stand there repeatedly.

    By the shape of the conversation, and by its own words, where these are long enough not to stand there by chance.
    """
    template, earlier = str(talk.tokenizer.chat_template), tuple(sorted(spans))[:-1]
    found = dict(_mixed(talk.tokenizer, template, talk.dialect, _shape(talk.turns), bool(talk.tools), earlier))
    for i, (start, end) in spans.items():
        rest = text[start:end]
        for _, said, others in said_by(talk.turns[i]):
            for form in (said, *(others(said) if others else ())):
                rest = rest.replace(form, "\0") if form else rest
        for j, turn in enumerate(talk.turns):
            said = turn["content"].strip()
            if j != i and len(said) > SHORT and said in rest:
                found.setdefault(i, j)
    return found


@lru_cache(maxsize=1024)
def _mixed(
    tokenizer: Any, template: str, dialect: Dialect, shape: Shape, tools: bool, earlier: tuple[int, ...]
) -> tuple[tuple[int, int | str], ...]:
    turns, words = _made(shape)
    talk = Talk(tokenizer, dialect, turns, [PROBE] if tools else None)
    try:
        text, spans = talk.lay_out(earlier)
    except RowProblem:
        return ()
    found: dict[int, int | str] = {}
    for i, (start, end) in spans.items():
        said = text[start:end]
        if (own := words[i].get("content")) and said.count(own) > 1:
            found[i] = TWICE
        for j, fields in words.items():
            if j != i and any(word in said for word in fields.values()):
                found[i] = j
    return tuple(found.items())


def _made(shape: Shape) -> tuple[list[Turn], Words]:
    """A conversation of a shape in words that stand nowhere else."""
    turns, words = list[Turn](), Words()
    for i, (role, says, thinks, calls) in enumerate(shape):
        said, made = f"Qsaid{i}q" if says else "", []
        words[i] = {"content": said} if says else {}
        more: dict[str, Any] = {}
        if thinks:
            more[REASONING[0]] = words[i][REASONING[0]] = f"Qthink{i}q"
        for k, count in enumerate(calls):
            name, values = f"Qname{i}x{k}q", {f"Qkey{i}x{k}x{j}q": f"Qvalue{i}x{k}x{j}q" for j in range(count)}
            made.append({"id": f"Qcall{k:04d}", "type": "function", "function": {"name": name, "arguments": values}})
            words[i] |= {f"tool_calls[{k}].function.name": name}
            words[i] |= {f"tool_calls[{k}].function.arguments.{key}": key for key in values}
            words[i] |= {f"tool_calls[{k}].function.arguments.{key}.": value for key, value in values.items()}
        more |= {"tool_calls": made} if made else {}
        if role == "tool":
            more = {"name": "Qname", "tool_call_id": "Qcall0000"}
        turns.append({"role": role, "content": said, **more})
    return turns, words
