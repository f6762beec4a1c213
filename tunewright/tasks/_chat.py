"""A conversation as text: rendered through the tokenizer's chat template, with the spans that the assistant says.

An answer's span begins where the prompt before it ends (as generation will see that prompt) and ends with the whole.
Transformers' own mask is empty where a template lacks `{% generation %}`. What a template writes is not taken on trust:
everything that the turns say must be found in its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tunewright.contract.records import RowProblem
from tunewright.tasks._control import check_control
from tunewright.tasks._dialect import dialect_of
from tunewright.tasks._ends import end_tokens
from tunewright.tasks._found import THINK, has_short, missing
from tunewright.tasks._render import PAGE, default_turn
from tunewright.tasks._shapes import TWICE, left_out, mixed
from tunewright.tasks._talk import Span, Talk
from tunewright.tasks._turns import REASONING, Turn, checked

Segment = tuple[str, float]
"""Text and the loss weight of its tokens."""


@dataclass
class Conversation:
    """A rendered conversation. `segments` joined are its text. `answer`: the last answer's text where its content is
    all that is said, else None. `untrained`: how many earlier answers the template writes otherwise than they were
    said, or among the words of other turns, so that they are context only. `nameless`: how many turns have a name that
    the template does not show.
    """

    segments: list[Segment]
    answer: str | None
    untrained: int
    nameless: int = 0


def conversation(
    tokenizer: Any, messages: Sequence[dict[str, Any]], *, tools: Any = None, system: str | None = None
) -> Conversation:
    """Cut a rendered conversation into segments; what the assistant says and its end of turn have the turn's weight.

    Turns after the last trained answer are left out: they would be context of nothing, and templates write the last
    answer in a way of its own. `system` as in EncodeOptions. Raises RowProblem when no turn is the assistant's, or
    when the template leaves out or moves what a turn says.
    """
    turns, weights = checked(messages)
    dialect, shift = dialect_of(tokenizer), 0
    has_system = turns[0]["role"] == "system"
    removed = default_turn(tokenizer) if system == "" and not has_system else ""
    if system and not has_system:
        turns, weights, shift = [{"role": "system", "content": system}, *turns], [0.0, *weights], 1
    answers = [i for i, turn in enumerate(turns) if turn["role"] == "assistant"]
    last = max((i for i in answers if weights[i] > 0), default=answers[-1])
    turns, weights = turns[: last + 1], weights[: last + 1]
    check_control(tokenizer, dialect, turns, tools, shift)
    talk = Talk(tokenizer, dialect, turns, tools)
    text, spans = talk.lay_out([i for i in answers if i < last and weights[i] > 0])
    _check(talk, text, spans, shift)
    others = mixed(talk, text, spans)
    if last in others:
        raise _mixed(others[last], last, shift)
    spans = {i: span for i, span in spans.items() if i not in others}
    segments, position = list[Segment](), 0
    for i, (start, end) in sorted(spans.items()):
        segments += [(text[position:start], 0.0), (text[start:end], weights[i])]
        position = end
    segments.append((text[position:], 0.0))
    start, end = spans[last]
    content = turns[last]["content"].strip()
    plain = bool(content) and end_tokens(tokenizer).without(text[start:end]).strip() == content
    untrained = sum(1 for i in answers if i < last and weights[i] > 0 and i not in spans)
    segments = _without(removed, segments, tokenizer.bos_token or "")
    nameless = sum(
        1 for turn in turns if turn["role"] != "tool" and "name" in turn and turn["role"] not in dialect.names
    )
    return Conversation(segments, content if plain else None, untrained, nameless)


def _check(talk: Talk, text: str, spans: dict[int, Span], shift: int) -> None:
    """RowProblem where something that a turn says, or a tool, is not in its place."""
    last, position = len(talk.turns) - 1, 0
    prompt = text[: spans[last][0]]
    never: dict[int, frozenset[str]] = {}
    if any(map(has_short, talk.turns)):
        never = left_out(talk)
    for i, turn in enumerate(talk.turns):
        start, end = spans.get(i, (position, min(s for k, (s, _) in spans.items() if k >= i)))
        lost = missing(turn, text[start:end], history=i < last, never=never.get(i, frozenset()))
        if lost:
            raise _lost(turn, i - shift, lost)
        position = end if i in spans else position
    for k, tool in enumerate(talk.tools or ()):
        if not talk.dialect.tools or tool["function"]["name"] not in prompt:
            what = f"the chat template does not show the tool '{tool['function']['name']}' to the model"
            remedy = f"take a model whose template has tools ({PAGE}), or take them out"
            raise RowProblem(f"tools[{k}]", what, remedy)


def _lost(turn: Turn, i: int, field: str) -> RowProblem:
    where = f"messages[{i}].{field}" if i >= 0 else "data.system"
    reason = f"the chat template leaves it out: it is not in the text of the '{turn['role']}' turn"
    if field.startswith("tool_calls"):
        remedy = f"take a model whose template has tool calls ({PAGE}), or write the call as content"
    elif turn.get("tool_calls"):
        remedy = "this template shows calls without content: take the content out, or put it in a turn of its own"
    elif field == REASONING[0] or THINK.search(turn["content"]):
        remedy = f"take a model whose template has reasoning ({PAGE}), or take the reasoning out"
    else:
        remedy = "write the turn with a role and content that the template shows, or take the row out"
    return RowProblem(where, reason, remedy)


def _mixed(other: int | str, last: int, shift: int) -> RowProblem:
    if other == TWICE:
        what = "repeats the answer in the text that it is trained on"
    else:
        name = f"messages[{int(other) - shift}]" if int(other) >= shift else "the system turn"
        what = f"puts what {name} says into the text that the answer is trained on"
    remedy = f"give the model folder a chat_template.jinja of those in {PAGE}"
    return RowProblem(f"messages[{last - shift}]", f"the chat template {what}", remedy)


def _without(removed: str, segments: list[Segment], bos: str) -> list[Segment]:
    text, weight = segments[0]
    start = 0 if text.startswith(removed) or not text.startswith(bos) else len(bos)
    if removed and text[start:].startswith(removed):
        segments[0] = (text[:start] + text[start + len(removed) :], weight)
    return [s for s in segments if s[0]]
