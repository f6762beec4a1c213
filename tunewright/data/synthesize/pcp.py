"""PCP: texts of the task, put into the prompt with a label that an earlier prompt-tuned model gives, are read on before
the prompt is learnt (Shi & Lipani 2023, arXiv:2305.01711; papers: pcp).

For each record's text x a model that learnt the prompt from few rows is asked A(x) = `ask` with {text} in it, and what
it answers by greedy decoding is the label l. What is trained on is one plain text,

    T(x, l) = `fill` with {text} and {label} in it

all of whose tokens count, so that the model reads the task's texts, the template and the label words together. Answers
that are none of `labels` are thrown away, with the reason. Labels that the pool has are not looked at. The method is a
recipe of three stages, of which this makes the rows of the second:

    teacher   few labelled rows, asked by the prompt
    read      start: base, pool.jsonl, synthesize: [{pcp: {model: stages.teacher, ...}}]
    task      start: stages.read, the few labelled rows again

Differs from the paper in: a causal model that writes the label behind the prompt and learns every token, where the
paper's fills a mask in a masked language model and reads on with a masking rate of 0.15; hard templates alone, no soft
prompts. That all labels are kept, sure or not, is the authors' way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field, PositiveInt, model_validator

from tunewright.contract.made import Made
from tunewright.contract.method import Method
from tunewright.contract.records import Record
from tunewright.contract.writer import Writer
from tunewright.data.synthesize._answers import question_and_answer


def text_in(record: Record) -> str:
    """A record's text, or what it asks."""
    text = record.get("text")
    return text if isinstance(text, str) else question_and_answer(record)[0]


class PCP(Method):
    """Puts texts into the prompt with the label that a model gives them."""

    ask: str = Field("{text}", description="how the label is asked for; {text} is the record's", examples=["{text}?"])
    fill: str = Field(
        "{text}\n{label}", description="what is read: {text} with its {label}", examples=["{text} It is {label}."]
    )
    labels: list[str] = Field(
        default_factory=list, description="answers that are labels; none: every answer is", examples=[["yes", "no"]]
    )
    max_new_tokens: PositiveInt = Field(12, description="longest label, in tokens", examples=[2])
    model: str = Field(
        "previous",
        description="what labels: previous (what the stage before made), start, base, stages.NAME, or one of `models`",
        examples=["base"],
    )

    tasks: ClassVar[tuple[str, ...] | None] = ("text-generation",)
    papers: ClassVar[tuple[str, ...]] = ("pcp",)
    conformance: ClassVar[dict[str, object]] = {"model": "start", "max_new_tokens": 3}

    @model_validator(mode="after")
    def _filled(self) -> PCP:
        for name, template, parts in (("ask", self.ask, ("{text}",)), ("fill", self.fill, ("{text}", "{label}"))):
            if missing := [p for p in parts if p not in template]:
                raise ValueError(f"{name} does not say where {' and '.join(missing)} goes: {template!r}")
        return self

    def speakers(self) -> tuple[str, ...]:
        return (self.model,)

    def stand_in(self, record: Record, labels: Sequence[str] | None) -> Record:
        label = self.labels[0] if self.labels else "label"
        return Record({"text": self._read(text_in(record), label)}, id=record.id, source=record.source)

    def synthesize(self, records: Sequence[Record], writers: dict[str, Writer]) -> list[Made]:
        texts = [text_in(r) for r in records]
        asked = [self.ask.replace("{text}", t) for t in texts]
        answers = writers[self.model].generate(asked, max_new_tokens=self.max_new_tokens, temperature=0.0)
        out = []
        for record, text, (written,) in zip(records, texts, answers, strict=True):
            said = written.text.strip()
            label = next((name for name in self.labels if name.split() == said.split()), None)
            label = said if not self.labels else label
            thrown = written.nothing or ("" if label is not None else "the answer is none of the labels")
            out.append(Made({"text": self._read(text, label or said)}, record, written, thrown=thrown))
        return out

    def _read(self, text: str, label: str) -> str:
        return self.fill.replace("{label}", label).replace("{text}", text)
