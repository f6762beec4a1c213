"""Instruction pre-training: raw documents are read with questions and answers on them behind (Cheng et al. 2024,
arXiv:2406.14491; papers: instruction-pre-training).

A synthesizer writes pairs (q, a) on each document D; what the stage reads, every token of it, is

    T = D_1 + p(D_1) + D_2 + p(D_2) + .. + D_m + p(D_m)      p(D) = the pairs in a template, one after another

m = `shots` documents a text, the pairs of D_j written after those before it were shown, so that they are of a kind. The
template is drawn for each text; pairs whose question was asked before, in whatever case, are left out, and so is a last
pair that was cut off. A document without a pair that can be read stays plain text and the next one begins a text; so
do all but a `share` of them, drawn at random. Nothing is thrown away. Each row says in `documents` what it was made of
and in `pairs` how many it has. General text, or general instructions, are mixed in by `data.replay`.

    form: tags     as the authors' synthesizer reads and writes: " <CON> D </CON>", then "<QUE> q <ANS> a </END>" ..
    form: asked    any model that follows instructions is asked for them

Defaults: two documents a text, 400 new tokens, greedy (the README of the authors' code); every document (the paper's
continued pre-training; from nothing it is a fifth of them).

Source: microsoft/LMOps, instruction_pretrain (README and utils/read_compre.py).
Differs from the paper in: a few plain templates of ours in the place of FLAN's hundreds, none for options or reasoning;
a prompt that is too long with the documents before it is asked again alone, where the authors count words beforehand.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from tunewright.contract.made import Made
from tunewright.contract.method import Method
from tunewright.contract.records import Record
from tunewright.contract.writer import Continue, Prompt, Writer, Written
from tunewright.data.synthesize._answers import document_of

ASK = """\
Read this document.

{document}

Write questions and tasks of several kinds that it answers, each with its answer:
Question: ...
Answer: ..."""
READ, PAIR, END = " <CON> {} </CON>\n\n", "<QUE> {} <ANS> {} </END>", "</s>"
TEMPLATES = (
    "Question: {question}\nAnswer: {answer}",
    "Q: {question}\nA: {answer}",
    "{question}\n{answer}",
    "Task: {question}\n\nResponse: {answer}",
)
Pair = tuple[str, str]
PLAIN, WITH = "left plain", "with pairs"


def pairs_in(text: str, ended: bool = True) -> list[Pair]:
    """The whole pairs of an answer, in order and each question once: between tags where there are any, else behind
    "Question:" and "Answer:". `ended`: False where the answer was cut off, so that its last pair may be a part.
    """
    if "<QUE>" in text:
        parts = [p.partition("<QUE>")[2].split("<ANS>") for p in text.split("</END>")[:-1]]
        found = [(p[0], p[1]) for p in parts if len(p) == 2]
    else:
        start = r"^[\W\d]*(?:Question|Task|Q)\s*\d*\W*:\W*?"
        pieces = re.split(start, text, flags=re.IGNORECASE | re.MULTILINE)[1:]
        halves = [re.split(r"^[\W\d]*(?:Answer|A)\s*\d*\W*:", p, flags=re.I | re.M) for p in pieces]
        found = [(h[0], h[1]) for h in halves if len(h) == 2]
        if not ended and pieces and len(halves[-1]) == 2:
            found.pop()
    out: dict[str, Pair] = {}
    for q, a in ((q.strip(" *\n\t"), a.strip(" *\n\t")) for q, a in found):
        if q and a:
            out.setdefault(q.lower(), (q, a))
    return list(out.values())


@dataclass
class Text:
    """What becomes one row: documents with their pairs, in order, and the last answer."""

    read: list[tuple[Record, list[Pair]]] = field(default_factory=list)
    written: Written | None = None


class InstructionPreTraining(Method):
    """Documents with question and answer pairs behind them, as plain text."""

    share: float = Field(1.0, gt=0, le=1, description="share of the documents that get pairs", examples=[0.2])
    shots: PositiveInt = Field(2, description="documents with their pairs in one text", examples=[1])
    most_pairs: PositiveInt | None = Field(None, description="pairs of a document, at most; none: all", examples=[1])
    form: Literal["asked", "tags"] = Field("asked", description="how the model is asked, and how it answers")
    templates: list[str] = Field(
        list(TEMPLATES),
        min_length=1,
        description="how a pair is read, one drawn for each text; {question} and {answer}",
        examples=[["{question} {answer}"]],
    )
    max_new_tokens: PositiveInt = Field(400, description="longest answer with pairs, in tokens", examples=[2])
    temperature: NonNegativeFloat = Field(0.0, description="at which pairs are drawn; 0: the most likely", examples=[1])
    model: str = Field(
        "start",
        description="what writes: start (of the stage), base, previous, stages.NAME, or one of the recipe's `models`",
        examples=["base"],
    )

    tasks: ClassVar[tuple[str, ...] | None] = ("text-generation", "fill-mask")
    papers: ClassVar[tuple[str, ...]] = ("instruction-pre-training",)
    conformance: ClassVar[dict[str, object]] = {"max_new_tokens": 8}
    conformance_says: ClassVar[str] = "<QUE> what is {}? <ANS> a {} </END>"

    @model_validator(mode="after")
    def _templates_hold_both(self) -> InstructionPreTraining:
        for template in self.templates:
            if missing := [p for p in ("{question}", "{answer}") if p not in template]:
                raise ValueError(f"a template does not say where {' and '.join(missing)} goes: {template!r}")
        return self

    def speakers(self) -> tuple[str, ...]:
        return (self.model,)

    def makes(self, count: int) -> int | None:
        return count

    def synthesize(self, records: Sequence[Record], writers: dict[str, Writer], rng: random.Random) -> list[Made]:
        for record in records:
            document_of(record)
        begin = rng.getrandbits(64)
        order = sorted(range(len(records)), key=lambda i: random.Random(f"{begin}/{records[i].id}").random())
        chosen = set(order[: max(1, round(self.share * len(records)))])
        out = [Made(_row([r]), r, verdict=PLAIN) for i, r in enumerate(records) if i not in chosen]
        queue = [records[i] for i in sorted(chosen)]
        groups = [queue[i : i + self.shots] for i in range(0, len(queue), self.shots)]
        open_texts = [Text() for _ in groups]
        for shot in range(self.shots):
            here = [g for g, some in enumerate(groups) if shot < len(some)]
            answers = self._written([open_texts[g] for g in here], [groups[g][shot] for g in here], writers[self.model])
            for g, written in zip(here, answers, strict=True):
                record, pairs = groups[g][shot], pairs_in(written.text, written.ended)[: self.most_pairs]
                if pairs:
                    open_texts[g].read.append((record, pairs))
                    open_texts[g].written = written
                    continue
                out += self._closed(open_texts[g], begin)
                out.append(Made(_row([record]), record, written, verdict=_why(written)))
                open_texts[g] = Text()
        return out + [one for text in open_texts for one in self._closed(text, begin)]

    def _written(self, before: Sequence[Text], records: Sequence[Record], writer: Writer) -> list[Written]:
        """The answer on each record, behind what its text holds so far; alone where that is too long to be read."""
        limit: dict[str, Any] = {"max_new_tokens": self.max_new_tokens, "temperature": self.temperature}
        prompts = [self._prompt(text.read, record) for text, record in zip(before, records, strict=True)]
        out = [some[0] for some in writer.generate(prompts, **limit)]
        again = [i for i, w in enumerate(out) if w.refused and before[i].read]
        alone = writer.generate([self._prompt([], records[i]) for i in again], **limit)
        for i, (written,) in zip(again, alone, strict=True):
            out[i] = written
        return out

    def _prompt(self, before: Sequence[tuple[Record, list[Pair]]], record: Record) -> Prompt:
        if self.form == "tags":
            shown = "".join(READ.format(document_of(r)) + "\n\n".join(_tagged(p)) + END for r, p in before)
            return Continue(shown + READ.format(document_of(record)))
        turns = []
        for r, pairs in before:
            turns.append({"role": "user", "content": ASK.format(document=document_of(r))})
            turns.append({"role": "assistant", "content": "\n\n".join(_filled(TEMPLATES[0], *p) for p in pairs)})
        return [*turns, {"role": "user", "content": ASK.format(document=document_of(record))}]

    def _closed(self, text: Text, begin: int) -> list[Made]:
        """The row of a text that holds anything."""
        if not text.read:
            return []
        last = text.read[-1][0]
        template = random.Random(f"{begin}/{last.id}/template").choice(self.templates)
        parts = [
            part for r, pairs in text.read for part in (document_of(r), *(_filled(template, q, a) for q, a in pairs))
        ]
        count = sum(len(pairs) for _, pairs in text.read)
        row = _row([r for r, _ in text.read]) | {"text": "\n\n".join(parts), "pairs": count}
        return [Made(row, last, text.written, scores={"pairs": count}, verdict=WITH)]


def _why(written: Written) -> str:
    return f"plain, since {written.nothing.partition(':')[0] or 'no pair can be read'}"


def _tagged(pairs: Sequence[Pair]) -> list[str]:
    return [PAIR.format(q, a) for q, a in pairs]


def _filled(template: str, question: str, answer: str) -> str:
    begin, _, rest = template.partition("{question}")
    both = [part.replace("{answer}", answer) for part in (begin, rest)]
    return question.join(both)


def _row(documents: Sequence[Record]) -> dict[str, Any]:
    return {"text": document_of(documents[0]), "documents": [r.id for r in documents], "pairs": 0}
