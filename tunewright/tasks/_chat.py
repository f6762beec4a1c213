"""A conversation as text: rendered through the tokenizer's chat template, with the spans that the assistant says.

An answer's span begins where the prompt before it ends (as generation will see that prompt) and ends with the whole.
Transformers' own mask is empty where a template lacks `{% generation %}`. What a template writes is not taken on trust:
everything that the turns say must be found in its place.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tunewright.contract.records import RowProblem
from tunewright.tasks._dialect import Dialect, dialect_of, end_tokens
from tunewright.tasks._found import THINK, missing, pieces
from tunewright.tasks._render import default_turn, render
from tunewright.tasks._turns import REASONING, Turn, checked

Segment = tuple[str, float]
"""Text and the loss weight of its tokens."""
Span = tuple[int, int]
PAGE = "docs/templates.md"
NUL = "\N{SYMBOL FOR NULL}"  # stands in no template, so that it shows where a template puts a content


@dataclass
class Conversation:
    """A rendered conversation. `segments` joined are its text. `answer`: the last answer's text where its content is
    all that is said, else None. `untrained`: how many earlier answers the template writes otherwise than they were
    said, so that they are context only.
    """

    segments: list[Segment]
    answer: str | None
    untrained: int


def conversation(
    tokenizer: Any, messages: Sequence[dict[str, Any]], *, tools: Any = None, system: str | None = None
) -> Conversation:
    """Cut a rendered conversation into segments; what the assistant says and its end of turn have the turn's weight.

    Turns after the last trained answer are left out: they would be context of nothing, and templates write the last
    answer in a way of its own. `system` as in EncodeOptions. Raises RowProblem when no turn is the assistant's, or
    when the template leaves out or moves what a turn says.
    """
    turns, weights = checked(messages)
    shift = 0
    has_system = turns[0]["role"] == "system"
    removed = default_turn(tokenizer) if system == "" and not has_system else ""
    if system and not has_system:
        turns, weights, shift = [{"role": "system", "content": system}, *turns], [0.0, *weights], 1
    answers = [i for i, turn in enumerate(turns) if turn["role"] == "assistant"]
    last = max((i for i in answers if weights[i] > 0), default=answers[-1])
    turns, weights = turns[: last + 1], weights[: last + 1]
    talk = _Talk(tokenizer, dialect_of(tokenizer), turns, tools)
    text, spans = talk.lay_out([i for i in answers if i < last and weights[i] > 0])
    talk.check(text, spans, shift)
    segments, position = list[Segment](), 0
    for i, (start, end) in sorted(spans.items()):
        segments += [(text[position:start], 0.0), (text[start:end], weights[i])]
        position = end
    segments.append((text[position:], 0.0))
    start, end = spans[last]
    content = turns[last]["content"].strip()
    plain = bool(content) and _bare(tokenizer, text[start:end]) == content
    untrained = sum(1 for i in answers if i < last and weights[i] > 0 and i not in spans)
    return Conversation(_without(removed, segments, tokenizer.bos_token or ""), content if plain else None, untrained)


@dataclass
class _Talk:
    """A conversation under a template, up to its last trained answer."""

    tokenizer: Any
    dialect: Dialect
    turns: list[Turn]
    tools: Any

    def render(self, turns: Sequence[Turn], *, prompt: bool = False) -> str:
        text = render(self.tokenizer, self.dialect.write(turns), tools=self.tools, prompt=prompt)
        return text if prompt or not self.dialect.tail else text.removesuffix(self.dialect.tail)

    def lay_out(self, earlier: Sequence[int]) -> tuple[str, dict[int, Span]]:
        """The whole text, and the spans of the last answer and of those `earlier` ones that stand in it as they were
        said.
        """
        last = len(self.turns) - 1
        whole, before = self.render(self.turns), self.render(self.turns[:last], prompt=True)
        text, start = (whole, len(before)) if whole.startswith(before) else self._joined(whole, before)
        spans = {last: (start, start + self._end(text[start:]))}
        for i in earlier:
            if span := self._earlier(text, i):
                spans[i] = span
        return text, spans

    def _earlier(self, text: str, i: int) -> Span | None:
        """An earlier answer's span, None where the whole does not hold it as generation would have said it."""
        before, after = self.render(self.turns[:i], prompt=True), self.render(self.turns[: i + 1])
        if not text.startswith(before) or not after.startswith(before):
            return None
        start = len(before)
        if text.startswith(after):
            return start, start + self._end(text[start : len(after)])
        # what ends a whole conversation (an end of text) stands in `after` alone: the turn's own end is enough
        common = text[start : len(os.path.commonprefix((text, after)))]
        end = max((common.rfind(t) + len(t) for t in end_tokens(self.tokenizer) if t in common), default=0)
        return (start, start + end) if end and missing(self.turns[i], common[:end]) is None else None

    def _joined(self, whole: str, before: str) -> tuple[str, int]:
        """The text and where the answer begins, for a prompt that is no prefix of the whole because one of them opens
        or closes a think block that the other does not have. RowProblem where that is not the reason.
        """
        last = len(self.turns) - 1
        shown = os.path.commonprefix((before, self.render(self.turns[:last])))
        shared = len(os.path.commonprefix((before, whole)))
        if shared >= len(shown) and not re.sub(r"\s", "", THINK.sub("", before[shared:])) and self._thinks():
            if _opens(before[:shared]):  # the prompt closes at once the block in which the answer's reasoning stands
                return whole, shared
        blank = self.render([*self.turns[:last], {"role": "assistant", "content": NUL}])
        stem = len(os.path.commonprefix((before, blank)))
        instead = THINK.sub("", blank[stem : max(stem, blank.rfind(NUL))])
        if stem < len(shown) or not whole.startswith(before[:stem]) or instead.strip():
            return before + self._after_header(whole, blank, before), len(before)
        opened, rest = before[stem:], whole[stem:]
        tag = _opens(opened)
        if tag:  # generation begins inside a think block that the template does not write in conversations
            space = opened[opened.rindex(tag) + len(tag) :]
            close = tag.replace("<", "</", 1) if tag.startswith("<") else tag.replace("[", "[/", 1)
            rest = f"{self._thinks()}{space}{close}{space}{space}{rest.lstrip()}"
        return before + rest, len(before)

    def _after_header(self, whole: str, blank: str, before: str) -> str:
        """What stands in the whole after the header of the last answer, for a template that writes the turns before it
        otherwise once there is an answer (Mistral's then forgets the system turn). RowProblem where there is none.
        """
        begin = max((before.rfind(t) for t in end_tokens(self.tokenizer)), default=-1)
        header = before[begin if begin >= 0 else -8 :]
        at = blank.rfind(header, 0, blank.rfind(NUL))
        if at < 0 or not whole.startswith(blank[: at + len(header)]):
            reason = "the prompt before the last answer is no prefix of the whole conversation under this chat template"
            raise RowProblem("messages", reason, f"give the model folder a chat_template.jinja of those in {PAGE}")
        return whole[at + len(header) :]

    def _thinks(self) -> str:
        """What the last answer thinks before it is said, "" for nothing."""
        turn = self.turns[-1]
        parts = pieces(turn["content"])
        return str(turn.get(REASONING[0], "")).strip() or (parts[0] if len(parts) > 1 else "")

    def _end(self, said: str) -> int:
        """Where the turn's trained text ends: after its last special token, so that a line break after it is not
        trained.
        """
        ends = [said.rfind(t) + len(t) for t in end_tokens(self.tokenizer) if t in said]
        return max(ends) if ends and not said[max(ends) :].strip() else len(said)

    def check(self, text: str, spans: dict[int, Span], shift: int) -> None:
        """RowProblem where something that a turn says, or a tool, is not in its place."""
        last, position = len(self.turns) - 1, 0
        prompt = text[: spans[last][0]]
        for i, turn in enumerate(self.turns):
            start, end = spans.get(i, (position, min(s for k, (s, _) in spans.items() if k >= i)))
            lost = missing(turn, text[start:end], history=i < last)
            # system turns, and users' under some templates, are moved to the front or to the last question
            if lost and i not in spans:
                lost = missing(turn, prompt, history=True)
            if lost:
                raise self._lost(i, lost, shift)
            position = end if i in spans else position
        for k, tool in enumerate(self.tools or ()):
            if tool["function"]["name"] not in prompt:
                what = f"the chat template does not show the tool '{tool['function']['name']}' to the model"
                remedy = f"take a model whose template has tools ({PAGE}), or take them out"
                raise RowProblem(f"tools[{k}]", what, remedy)

    def _lost(self, i: int, field: str, shift: int) -> RowProblem:
        turn = self.turns[i]
        where = f"messages[{i - shift}].{field}" if i >= shift else "data.system"
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


def _opens(text: str) -> str | None:
    """The think tag that a text opens and does not close, None where there is none."""
    tags = THINK.findall(text)
    return tags[-1] if tags and not re.search("/|END|RESPONSE", tags[-1]) else None


def _bare(tokenizer: Any, said: str) -> str:
    for token in end_tokens(tokenizer):
        said = said.replace(token, "")
    return said.strip()


def _without(removed: str, segments: list[Segment], bos: str) -> list[Segment]:
    text, weight = segments[0]
    start = 0 if text.startswith(removed) or not text.startswith(bos) else len(bos)
    if removed and text[start:].startswith(removed):
        segments[0] = (text[:start] + text[start + len(removed) :], weight)
    return [s for s in segments if s[0]]
