"""Non-instructional fine-tuning: the first half of any text is asked, and what a strong model goes on with is the
answer (Xie, Syu & Lee 2024, arXiv:2409.00096; papers: non-instructional-fine-tuning).

A text d of n words is cut behind its word k = round(share * n), 1 <= k < n. The row that is trained on is

    prompt = d[:k]        completion = what `model` writes after it

so that a model learns a stronger one's way of answering from rows of which none is an instruction. With `model: null`
the completion is d[k:], the text's own rest: what a user compares with. With `questions: false` a text that asks
something, or holds turns of a conversation, is thrown away, by its own words or by what was written after it: the
control that rows hold no instructions.

Texts of fewer than `least` words, answers that are empty and, with `whole`, answers that were cut off at
`max_new_tokens` are thrown away with the reason: half a sentence teaches a model to stop there.

Defaults: half (the paper's); how the model is asked, temperature, lengths and `questions` are ours. `ask: "{text}"`
sends the half alone as the user's turn; `ask: null` lets a model go on without a chat template, one that was never
tuned say, which seldom ends by itself: write `whole: false` beside it.

Differs from the paper in: texts that ask are found by marks and words, where the authors let GPT-4 look for them.
Written after the abstract and summaries of the method, without the authors' code.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from tunewright.contract.made import Made
from tunewright.contract.method import Method
from tunewright.contract.records import Record
from tunewright.contract.writer import Continue, Prompt, Writer
from tunewright.data.synthesize._answers import document_of

CONTINUE = """\
This is the beginning of a text. Go on with it where it stops, and write nothing else.

{text}"""
TURN = r"^\W*(?:questions?|answers?|instructions?|tasks?|user|human|assistant|q|a)\s*\d*\W*:"
ASKS = re.compile(rf"\?|{TURN}", re.IGNORECASE | re.MULTILINE)


class NonInstructional(Method):
    """Halves of texts, with what a model writes after them."""

    share: float = Field(0.5, gt=0, lt=1, description="share of a text's words that is asked", examples=[0.25])
    least: int = Field(20, ge=2, description="words of a text that is cut, at least", examples=[6])
    questions: bool = Field(True, description="whether texts that ask something or hold turns are taken too")
    ask: str | None = Field(
        CONTINUE,
        description="how the model is asked, {text} the half; none: it goes on without a chat template",
        examples=["{text}", None],
    )
    whole: bool = Field(True, description="whether answers that were cut off are thrown away")
    max_new_tokens: PositiveInt = Field(512, description="longest answer, in tokens", examples=[2])
    temperature: NonNegativeFloat = Field(1.0, description="at which answers are drawn", examples=[0])
    model: str | None = Field(
        "start",
        description="what goes on: start (of the stage), base, previous, stages.NAME, or one of the recipe's `models`; "
        "none: the text's own rest",
        examples=["base", None],
    )

    tasks: ClassVar[tuple[str, ...] | None] = ("text-generation",)
    papers: ClassVar[tuple[str, ...]] = ("non-instructional-fine-tuning",)
    conformance: ClassVar[dict[str, object]] = {"least": 2, "max_new_tokens": 4, "whole": False}
    conformance_says: ClassVar[str] = "is it {}?"

    @model_validator(mode="after")
    def _asked_with_the_half(self) -> NonInstructional:
        if self.ask is not None and "{text}" not in self.ask:
            raise ValueError(f"ask does not say where {{text}} goes: {self.ask!r}")
        return self

    def speakers(self) -> tuple[str, ...]:
        return () if self.model is None else (self.model,)

    def stand_in(self, record: Record, labels: Sequence[str] | None) -> Record:
        halves = self._cut(document_of(record)) or ("text", "text")
        return Record(_row(*halves), id=record.id, where=record.where, source=record.source)

    def synthesize(self, records: Sequence[Record], writers: dict[str, Writer]) -> list[Made]:
        out, cut = list[Made](), list[tuple[Record, str, str]]()
        for record in records:
            text = document_of(record)
            halves = self._cut(text)
            if halves is None:
                out.append(Made({"text": text}, record, thrown="too short to be cut"))
            elif not self.questions and ASKS.search(text if self.model is None else halves[0]):
                out.append(Made({"text": text}, record, thrown="the text asks something"))
            else:
                cut.append((record, *halves))
        if self.model is None:
            return out + [Made(_row(half, rest), record) for record, half, rest in cut]
        answers = writers[self.model].generate(
            [self._prompt(half) for _, half, _ in cut],
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
        )
        for (record, half, _), (written,) in zip(cut, answers, strict=True):
            thrown = written.nothing or ("cut off" if self.whole and not written.ended else "")
            if not thrown and not self.questions and ASKS.search(written.text):
                thrown = "what was written asks something"
            out.append(Made(_row(half, written.text.strip()), record, written, thrown=thrown))
        return out

    def _cut(self, text: str) -> tuple[str, str] | None:
        """The text's words up to the cut and those behind it, as they stand; None for a text that is too short."""
        starts = [word.start() for word in re.finditer(r"\S+", text)]
        if len(starts) < self.least:
            return None
        at = starts[min(max(round(self.share * len(starts)), 1), len(starts) - 1)]
        return text[:at].strip(), text[at:].strip()

    def _prompt(self, half: str) -> Prompt:
        return Continue(half) if self.ask is None else self.ask.replace("{text}", half)


def _row(half: str, rest: str) -> dict[str, str]:
    return {"prompt": half, "completion": rest}
