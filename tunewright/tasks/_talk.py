"""One conversation under one chat template: its whole text, and where each answer stands in it as generation would
say it.

The last answer begins where the prompt before it ends and ends with the whole. An earlier one is trained only where the
whole goes on from its prompt as the model would have: templates that write the last answer in a way of its own (an
empty think block, an end of text) leave the earlier ones as context.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tunewright.contract.records import RowProblem
from tunewright.tasks._dialect import Dialect
from tunewright.tasks._ends import end_tokens
from tunewright.tasks._found import THINK, closes, missing, opens, pieces
from tunewright.tasks._render import PAGE, render
from tunewright.tasks._turns import REASONING, Turn

Span = tuple[int, int]
NUL, THOUGHT = "\N{SYMBOL FOR NULL}", "\N{SYMBOL FOR START OF HEADING}"
"""They stand in no template, so that they show where a template puts a content and a thought."""


@dataclass
class Talk:
    """Turns up to the last trained answer, and what renders them."""

    tokenizer: Any
    dialect: Dialect
    turns: list[Turn]
    tools: Any

    def render(self, turns: Sequence[Turn], *, prompt: bool = False) -> str:
        """The turns' text. Without `prompt`, what ends an answer stands at its end and no header of a next one."""
        text = render(self.tokenizer, self.dialect.write(turns), tools=self.tools, prompt=prompt)
        if prompt:
            return text
        text = text.removesuffix(self.dialect.tail)
        end = self.dialect.ends[bool(turns[-1].get("tool_calls"))] if turns[-1]["role"] == "assistant" else ""
        return text + end if end and not end_tokens(self.tokenizer).ends(text) else text

    def lay_out(self, earlier: Sequence[int]) -> tuple[str, dict[int, Span]]:
        """The whole text, and the spans of the last answer and of those `earlier` ones that stand in it as they were
        said. RowProblem where the template's prompt and its answers have nothing to do with each other.
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
        end = end_tokens(self.tokenizer).last(common)
        if not end or missing(self.turns[i], common[:end]) is not None or start + end < self._said_by(i, after):
            return None
        return start, start + end

    def _said_by(self, i: int, after: str) -> int:
        """Where a turn's content has been said in the text that ends with it: a short one ("<", "final") may stand in
        what a template writes before it, too.
        """
        content = self.turns[i].get("content")
        if not isinstance(content, str):
            return 0
        other = self.render([*self.turns[:i], {**self.turns[i], "content": NUL}])
        return len(os.path.commonprefix((after, other))) + len(content.strip())

    def _end(self, said: str) -> int:
        """Where the turn's trained text ends: after its last special token, so that a line break after it is not
        trained.
        """
        end = end_tokens(self.tokenizer).last(said)
        return end if end and not said[end:].strip() else len(said)

    def _joined(self, whole: str, before: str) -> tuple[str, int]:
        """The text and where the last answer begins, for a prompt that is no prefix of the whole."""
        shared = self._common(before, whole)
        closed = THINK.sub("", before[shared:]).strip() == "" and opens(before[:shared])
        if closed and self._thinks():  # the prompt closes at once the block in which the answer's reasoning stands
            return whole, shared
        said = self._thinking(before)
        bare = before.rstrip()  # a template's file may end in blank lines, which follow a prompt, too
        if said is None:
            said = whole[len(bare) :].lstrip() if whole.startswith(bare) else self._continued(whole, before)
        return before + said, len(before)

    def _thinking(self, before: str) -> str | None:
        """What is said after a prompt that opens a think block: as the template writes an answer with a thought, with
        that thought taken out again. None where it knows none, or does not go on from its own prompt (but for words
        that lead the thought in).
        """
        *turns, turn = self.turns
        if self.dialect.reasoning is None or turn.get(REASONING[0]):
            return None
        whole = self.render([*turns, {**turn, REASONING[0]: THOUGHT}])
        begin = len(before) if whole.startswith(before) else self._common(before, whole)
        return whole[begin:].replace(THOUGHT, "") if whole[begin:].lstrip().startswith(THOUGHT) else None

    def _continued(self, whole: str, before: str) -> str:
        """What is said after a prompt that the whole leaves at some place: after an opened think block that the
        template does not write in conversations, or after turns that it writes otherwise once there is an answer.
        """
        turns = self.turns[:-1]
        blank = self.render([*turns, {"role": "assistant", "content": NUL}])
        shown = os.path.commonprefix((before, self.render(turns)))
        stem = self._common(before, blank)
        instead = THINK.sub("", blank[stem : max(stem, blank.rfind(NUL))]).strip()
        if stem < len(shown) or instead or not whole.startswith(before[:stem]):
            return self._after_header(whole, blank, before)
        opened, rest = before[stem:], whole[stem:]
        tag = opens(opened)
        if tag:
            space = opened[opened.rindex(tag) + len(tag) :]
            close = tag.replace("<", "</", 1) if tag.startswith("<") else tag.replace("[", "[/", 1)
            return f"{self._thinks()}{space}{close}{space}{space}{rest.lstrip()}"
        again = THINK.match(rest)  # DeepSeek-V3.2's prompt closes the block, and so do its answers
        return rest[again.end() :] if THINK.search(opened) and again and closes(again.group()) else rest

    def _after_header(self, whole: str, blank: str, before: str) -> str:
        """What stands in the whole after the header of the last answer (the prompt from its last special token on), for
        a template that writes the turns before it otherwise once there is an answer: Mistral's then forgets the system
        turn. RowProblem where there is no such header.
        """
        begin = end_tokens(self.tokenizer).begin(before)
        header = before[begin if begin is not None else -8 :]
        at = blank.rfind(header, 0, max(0, blank.rfind(NUL)))
        if at < 0 or not whole.startswith(blank[: at + len(header)]):
            reason = "the prompt before the last answer is no prefix of the whole conversation under this chat template"
            raise RowProblem("messages", reason, f"give the model folder a chat_template.jinja of those in {PAGE}")
        return whole[at + len(header) :]

    def _common(self, *texts: str) -> int:
        """The length of the texts' common beginning, without the part of a special token or a think tag."""
        length = len(os.path.commonprefix(texts))
        for text in texts:
            for pattern in (THINK, end_tokens(self.tokenizer).pattern):
                cut = next((m.start() for m in pattern.finditer(text, max(0, length - 60)) if m.end() > length), length)
                length = min(length, cut)
        return length

    def _thinks(self) -> str:
        """What the last answer thinks before it is said, "" for nothing."""
        turn = self.turns[-1]
        parts = pieces(turn["content"])
        return str(turn.get(REASONING[0], "")).strip() or (parts[0] if len(parts) > 1 else "")
