"""Self-improving transformers: a model answers problems a little harder than those that it was taught, and learns from
the answers that hold together, round after round (Lee et al. 2025, arXiv:2502.01612; papers:
self-improving-transformers).

A row's difficulty d is a number in its column `level`. One that is to be answered has an empty completion, or any. In
round r (of the stage's `rounds`, from 1)

    d <= known                         the row stays, with its own answer
    known < d <= known + r * step      it is answered; answers that were in the row are not looked at
    d > known + r * step               it waits for a later round

An answer is the one that most votes are for: those of `model` and of each of `voters`, `samples` of each. It is learnt
where it has a share of at least `agree` of them (the paper's majority vote over models of other seeds), and where it is
at most `shorter` characters shorter than the longest that won at its difficulty (the paper's length filter). Then the
next round begins from what this one made:

    stages:
      - {name: taught, data: {train: easy.jsonl}, methods: [full], budget: {epochs: 10}}
      - name: harder
        rounds: 10
        data: {train: all.jsonl, synthesize: [{self-improving-transformers: {known: 5, shorter: 2}}]}
        methods: [full]
        budget: {epochs: 1}

Defaults: one greedy answer and no voters, so that nothing is filtered by votes, and no length filter (the paper's plain
rounds); a step of 1; agree 0.8 (ours).

Differs from the paper in: answers of earlier rounds are given anew by the present model, where the paper keeps those
that it made; votes may come from several draws of one model as well. Written after the abstract and method.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from tunewright.contract.made import Made
from tunewright.contract.method import Method
from tunewright.contract.records import Record, finite
from tunewright.contract.writer import Writer, Written
from tunewright.errors import DataError


def majority(answers: Sequence[str]) -> tuple[str, float]:
    """(what most of them say, white space aside, the first of equals; its share). "" and 0 of nothing."""
    votes = Counter(" ".join(a.split()) for a in answers if a.strip())
    if not votes:
        return "", 0.0
    said, count = votes.most_common(1)[0]
    return said, count / len(answers)


class SelfImproving(Method):
    """Own answers to harder rows, kept by vote and by length."""

    level: str = Field(
        "level",
        min_length=1,
        description="column of a row's difficulty; length, where there is no such column: characters of its prompt",
        examples=["confidence"],
    )
    known: float = Field(..., description="difficulty up to which rows' own answers are right and stay", examples=[2])
    step: PositiveFloat = Field(1.0, description="how much harder each round is", examples=[0.1, 4.0])
    samples: PositiveInt = Field(1, description="answers of each model to each row", examples=[2])
    temperature: NonNegativeFloat = Field(0.0, description="of answers; 0: the most likely one", examples=[0.5])
    voters: list[str] = Field(
        default_factory=list,
        description="who votes beside the model: stages.NAME, base, or some of the recipe's `models`",
        examples=[["base"]],
    )
    agree: float = Field(0.8, gt=0, le=1, description="share of the votes that an answer needs", examples=[1.0])
    shorter: NonNegativeInt | None = Field(
        None,
        description="characters by which an answer may be shorter than the longest of its difficulty; none: any",
        examples=[0],
    )
    max_new_tokens: PositiveInt = Field(256, description="longest answer, in tokens", examples=[1])
    model: str = Field(
        "start",
        description="what answers: start (of the stage), previous, base, stages.NAME, or one of the recipe's `models`",
        examples=["base"],
    )

    tasks: ClassVar[tuple[str, ...] | None] = ("text-generation",)
    papers: ClassVar[tuple[str, ...]] = ("self-improving-transformers",)
    conformance: ClassVar[dict[str, object]] = {
        "level": "length",
        "known": 10,
        "step": 1.0,
        "samples": 3,
        "max_new_tokens": 8,
        "temperature": 1.0,
        "agree": 0.3,
    }

    @model_validator(mode="after")
    def _several_differ(self) -> SelfImproving:
        if self.samples > 1 and self.temperature == 0:
            raise ValueError(f"{self.samples} answers at temperature 0 are one and the same: write temperature: 0.7")
        return self

    def speakers(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.model, *self.voters)))

    def stand_in(self, record: Record, labels: Sequence[str] | None) -> Record:
        if "prompt" in record:
            self._level(record)  # what `known` is compared with: a check says that it is missing, not the stage
        return record if record.get("completion") else record.replace(completion="0")

    def synthesize(self, records: Sequence[Record], writers: dict[str, Writer], round: int) -> list[Made]:
        most = self.known + round * self.step
        levels = [self._level(r) for r in records]
        out, asked = list[Made](), list[tuple[Record, float]]()
        for record, level in zip(records, levels, strict=True):
            if level <= self.known:
                out.append(Made(dict(record), record, verdict="as it was"))
            elif level <= most:
                asked.append((record, level))
            else:
                out.append(Made(dict(record), record, thrown="harder than this round's"))
        return out + self._answered(asked, writers)

    def _answered(self, asked: Sequence[tuple[Record, float]], writers: dict[str, Writer]) -> list[Made]:
        limit: dict[str, Any] = {"max_new_tokens": self.max_new_tokens, "temperature": self.temperature}
        prompts = [self.stand_in(r, None) for r, _ in asked]
        by_voter = [writers[n].generate(prompts, count=self.samples, **limit) for n in self.speakers()]
        answers = [[w for some in row for w in some] for row in zip(*by_voter, strict=True)]
        won = [majority([w.text if w.ended else "" for w in some]) for some in answers]
        longest: dict[float, int] = {}
        for (_, level), (said, _) in zip(asked, won, strict=True):
            longest[level] = max(longest.get(level, 0), len(said))
        out = []
        for (record, level), some, (said, share) in zip(asked, answers, won, strict=True):
            written = next((w for w in some if w.ended and " ".join(w.text.split()) == said), some[0])
            row = {**record, "completion": said}
            thrown = self._thrown(written, said, share, longest[level])
            out.append(Made(row, record, written, thrown=thrown, scores={"votes": share}, verdict="answered"))
        return out

    def _thrown(self, written: Written, said: str, share: float, longest: int) -> str:
        if not said:
            return written.nothing or "cut off"
        if share < self.agree:
            return "too few votes agree"
        return "shorter than others" if self.shorter is not None and len(said) < longest - self.shorter else ""

    def _level(self, record: Record) -> float:
        prompt = record.get("prompt")
        plain = len(prompt) if self.level == "length" and isinstance(prompt, str) else None
        level = finite(record.get(self.level, plain))
        if level is None or not isinstance(prompt, str):
            raise DataError(
                f"the record has no prompt, or no number in '{self.level}' that says how hard it is",
                where=record.where,
                remedy=f'write rows as {{"prompt": "12+34=", "completion": "", "{self.level}": 2}}',
            )
        return level
