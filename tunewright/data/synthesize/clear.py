"""CLEAR: rows whose target a model doubts are left out, and a tuned model's own answer takes a target's place where it
is surely better (Chen & Mueller 2024, arXiv:2403.12776; papers: clear).

The confidence in a target y of a prompt x is BSDetector's (Chen & Mueller 2023, arXiv:2308.16175). The model answers x
k = `samples` times, y_1 .. y_k, and is asked twice whether y is right (yes 1, no 0, not sure or unreadable 1/2):

    o_i = a sim(y, y_i) + (1 - a) [y = y_i]      a = `similarity`;  sim: F1 of the words
    C   = b mean_i o_i + (1 - b) mean(asked)     b = `consistency`

Auto-filter: a row stays where C >= `least`, by default the median of all. Auto-correct, where `candidates` names a
tuned model: that one answers x (greedily), and its answer c takes the place of y where c is judged better with a
confidence of `surely` at least; rows whose target is neither replaced nor trusted go.

    judge: asked         the model says which of y and c is better, in both orders; the confidence in that verdict is C
                         again, over k more verdicts (o_i = [same verdict]) and the two questions about it
    judge: confidence    c is better where C(c) > C(y); the confidence in that is C(c)

A row that is kept has columns `confidence` and `verdict`, a replaced one its old target in `replaced`; a column of its
own of such a name makes place. A target of which nothing is known, since the model answered nothing, stays: only
confident changes are made. The method is a recipe of two stages:

    filter    synthesize: [clear]
    correct   start: base, synthesize: [{clear: {model: base, candidates: stages.filter}}]

Defaults: a = 0.8, b = 0.7, k = 5 at temperature 1 (BSDetector's), the median and `surely` = 0.8 (CLEAR's).

Differs from the paper in: words shared with the target stand in for a model of entailment that says whether answers
contradict each other; the judge's two orders must agree; `judge: confidence` is ours, for models that follow no
instruction; the words of all questions are ours. There is no code of the authors'; written after the papers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from statistics import fmean, median
from typing import Any, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from tunewright.contract.made import Made
from tunewright.contract.method import Method
from tunewright.contract.records import Record
from tunewright.contract.writer import Writer, Written
from tunewright.data.synthesize._answers import question_and_answer, with_answer

LETTERS = 4
"""Tokens of an answer that is one letter."""
TIED = "kept, since no confidence is below the median and so many tie there: write least, or more samples"
SAID = {"A": 1.0, "B": 0.0, "C": 0.5}
RIGHT = """\
Question:
{question}

Proposed answer:
{answer}

Is the proposed answer right? (A) yes (B) no (C) not sure
Answer with one letter."""
SURE = """\
Question:
{question}

Proposed answer:
{answer}

Look at the proposed answer once more and think about what could be wrong with it. Is it right, all in all? (A) yes \
(B) no (C) not sure
Answer with one letter."""
BETTER = """\
Question:
{question}

Answer A:
{first}

Answer B:
{second}

Which answer is better? (A) answer A (B) answer B (C) they are equally good
Answer with one letter."""


def letter(text: str) -> str:
    """A, B or C, where an answer says one of them alone or first; "" where it cannot be read."""
    found = re.match(r"\W*(?:the )?(?:answer(?: is)?)?\W*([ABC])\s*(?:[).:,\n]|$)", text, re.IGNORECASE)
    return found[1].upper() if found else ""


def words_alike(a: str, b: str) -> float:
    """F1 of two texts' words, each as often as it stands there; case and punctuation do not count."""
    one, other = (Counter(re.findall(r"\w+", t.lower())) for t in (a, b))
    if not one or not other:
        return float(a.split() == b.split())
    return 2 * (one & other).total() / (one.total() + other.total())


class Clear(Method):
    """Leaves out targets that a model doubts, and replaces them where its own are surely better."""

    samples: PositiveInt = Field(5, description="k, answers that a target is compared with", examples=[2])
    temperature: NonNegativeFloat = Field(1.0, description="at which they are drawn", examples=[0.5])
    similarity: float = Field(0.8, ge=0, le=1, description="a, what shared words count beside equality")
    consistency: float = Field(0.7, ge=0, le=1, description="b, what own answers count beside what the model says")
    least: float | None = Field(
        None, ge=0, le=1, description="confidence from which a target stays; none: the median", examples=[0.9]
    )
    candidates: str | None = Field(
        None,
        description="what writes better targets: stages.NAME, previous, or one of `models`; none: nothing is replaced",
        examples=["stages.filter"],
    )
    surely: float = Field(0.8, ge=0, le=1, description="confidence from which a target is replaced", examples=[0.99])
    judge: Literal["asked", "confidence"] = Field(
        "asked", description="what tells which is better: the model is asked, or confidences are compared"
    )
    max_new_tokens: PositiveInt = Field(256, description="longest answer, in tokens", examples=[2])
    model: str = Field(
        "start",
        description="what is confident: start (of the stage), base, previous, stages.NAME, or one of `models`",
        examples=["base"],
    )

    tasks: ClassVar[tuple[str, ...] | None] = ("text-generation",)
    papers: ClassVar[tuple[str, ...]] = ("clear",)
    conformance: ClassVar[dict[str, object]] = {"candidates": "base", "judge": "confidence", "surely": 0.31}

    @model_validator(mode="after")
    def _several_differ(self) -> Clear:
        if self.samples > 1 and self.temperature == 0:
            raise ValueError(f"{self.samples} answers at temperature 0 are one and the same: write temperature: 1.0")
        return self

    def speakers(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.model, *([self.candidates] if self.candidates else []))))

    def synthesize(self, records: Sequence[Record], writers: dict[str, Writer]) -> list[Made]:
        asked, targets = zip(*map(question_and_answer, records), strict=True) if records else ((), ())
        writer = writers[self.model]
        drawn = writer.generate(
            records, count=self.samples, max_new_tokens=self.max_new_tokens, temperature=self.temperature
        )
        own = [[w.text for w in some if not w.nothing] for some in drawn]
        trusted = self._confidences(asked, targets, own, writer)
        known = [c for c in trusted if c is not None]
        least = self.least if self.least is not None else median(known or [0.0])
        tied = self.least is None and len(known) > 1 and min(known) == least
        better = self._better(records, asked, targets, own, trusted, writers)
        out = []
        for record, target, c, (new, sure) in zip(records, targets, trusted, better, strict=True):
            scores = {n: v for n, v in (("confidence", c), ("better", sure)) if v is not None}
            if new is not None and sure is not None and sure >= self.surely:
                row = {**with_answer(record, new.text), "replaced": target}
                out.append(_kept(row, record, "replaced", scores, new))
            elif c is None:
                out.append(_kept(dict(record), record, "kept, since the model answered nothing", scores))
            elif c >= least:
                verdict = TIED if tied and c == least else "kept as it was"
                out.append(_kept(dict(record), record, verdict, scores))
            else:
                out.append(Made(dict(record), record, thrown="the model doubts the target", scores=scores))
        return out

    def _confidences(
        self, asked: Sequence[str], targets: Sequence[str], own: Sequence[Sequence[str]], writer: Writer
    ) -> list[float | None]:
        """C of each target; None where the model gave no answer that it could be compared with."""
        told = _reflected(asked, targets, writer)
        out: list[float | None] = []
        for y, some, said in zip(targets, own, told, strict=True):
            a, plain = self.similarity, " ".join(y.split())
            o = [a * words_alike(y, s) + (1 - a) * (plain == " ".join(s.split())) for s in some]
            out.append(self.consistency * fmean(o) + (1 - self.consistency) * said if o else None)
        return out

    def _better(
        self,
        records: Sequence[Record],
        asked: Sequence[str],
        targets: Sequence[str],
        own: Sequence[Sequence[str]],
        trusted: Sequence[float | None],
        writers: dict[str, Writer],
    ) -> list[tuple[Written | None, float | None]]:
        """(an answer that is another and whole, how surely it is better; None where it is not) of each record."""
        if self.candidates is None:
            return [(None, None)] * len(records)
        limit: dict[str, Any] = {"max_new_tokens": self.max_new_tokens, "temperature": 0.0}
        new = [some[0] for some in writers[self.candidates].generate(records, **limit)]
        places = [
            i
            for i, (w, y) in enumerate(zip(new, targets, strict=True))
            if not w.nothing and w.ended and w.text.split() != y.split()
        ]
        pick = [(asked[i], targets[i], new[i].text) for i in places]
        writer = writers[self.model]
        if self.judge == "asked":
            sure = self._verdicts(pick, writer)
        else:
            found = self._confidences(
                [q for q, _, _ in pick], [c for _, _, c in pick], [own[i] for i in places], writer
            )
            before = [trusted[i] for i in places]
            sure = [
                c if c is not None and y is not None and c > y else None for c, y in zip(found, before, strict=True)
            ]
        by = dict(zip(places, sure, strict=True))
        return [(new[i] if i in by else None, by.get(i)) for i in range(len(records))]

    def _verdicts(self, pick: Sequence[tuple[str, str, str]], writer: Writer) -> list[float | None]:
        """How surely each candidate is better, where both orders of asking say so; else None."""
        limit: dict[str, Any] = {"max_new_tokens": LETTERS}
        orders = [
            [BETTER.format(question=q, first=a, second=b) for q, a, b in turned]
            for turned in (pick, [(q, c, y) for q, y, c in pick])
        ]
        greedy = [writer.generate(prompts, temperature=0.0, **limit) for prompts in orders]
        first, second = ([letter(w.text) for (w,) in some] for some in greedy)
        won = [i for i in range(len(pick)) if (first[i], second[i]) == ("B", "A")]
        halves = [(orders[0], "B", (self.samples + 1) // 2), (orders[1], "A", self.samples // 2)]
        same: list[list[bool]] = [[] for _ in won]
        for prompts, says, count in halves:
            if not count:
                continue
            more = writer.generate([prompts[i] for i in won], count=count, temperature=self.temperature, **limit)
            for kept, some in zip(same, more, strict=True):
                kept += [letter(w.text) == says for w in some]
        sure = _reflected([orders[0][i] for i in won], ["Answer B is better."] * len(won), writer)
        found = dict(zip(won, zip(same, sure, strict=True), strict=True))
        return [
            self.consistency * fmean(found[i][0]) + (1 - self.consistency) * found[i][1] if i in found else None
            for i in range(len(pick))
        ]


def _reflected(asked: Sequence[str], answers: Sequence[str], writer: Writer) -> list[float]:
    """How right the model says that each answer is, in [0, 1]: the mean over both questions."""
    told: list[list[float]] = [[] for _ in asked]
    for question in (RIGHT, SURE):
        prompts = [question.format(question=q, answer=y) for q, y in zip(asked, answers, strict=True)]
        said = writer.generate(prompts, max_new_tokens=LETTERS, temperature=0.0)
        for kept, (w,) in zip(told, said, strict=True):
            kept.append(SAID.get(letter(w.text), 0.5))
    return [fmean(some) for some in told]


def _kept(
    row: dict[str, Any], record: Record, verdict: str, scores: dict[str, float], written: Written | None = None
) -> Made:
    return Made({**row, **scores, "verdict": verdict}, record, written, scores=scores, verdict=verdict)
