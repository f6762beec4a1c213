"""I2D2: a model writes many statements after each prompt, those that keep to lexical constraints and that a critic
accepts are what it learns next, round after round (Bhagavatula et al. 2022, arXiv:2212.09246; papers: i2d2).

For each prompt x ("Generally, bicycles are used for") the model draws `samples` continuations y. Kept is a y of which

    for each list in `one_of`     y has at least one of its words or phrases
    `none_of`                     y has none of them
    words(y) <= most_words
    J(x, y) >= accept             J: the sum of the rewards that stand beside it under `synthesize`

and which says nothing that an earlier y of x said, white space and case aside. `best` keeps of these the k of highest
mean log-probability a token (the paper ranks by perplexity), where the writer tells it. The critic is a reward: a
trained one is `model-reward`, a check is one of yours. With `rounds` the model that learnt writes the next round:

    stages:
      - name: imitate
        rounds: 2
        data: {train: prompts.jsonl, synthesize: [{i2d2: {none_of: [he, she, without]}}, model-reward]}
        methods: [full]

Rows have the prompt and an empty completion; what completions there are is read by judges alone.

Defaults: all ours (10 draws at temperature 1; accept 0.5; no constraint).

Differs from the paper in: constraints hold since draws that break them are thrown away, where NeuroLogic decoding
steers a beam by them, so that a rare word wants many samples; what a prompt is made of (concepts, templates) is the
user's; the critic is not trained here. Written after the abstract and the paper's introduction, without the authors'
code.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import ClassVar

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from tunewright.contract.made import Made
from tunewright.contract.method import Method
from tunewright.contract.records import Record
from tunewright.contract.writer import Writer, Written
from tunewright.data.synthesize._answers import with_answer

Scored = Callable[[Sequence[tuple[Record, str]]], list[float]]


class I2D2(Method):
    """Own statements that keep to constraints and that a critic accepts."""

    samples: PositiveInt = Field(10, description="statements drawn after each prompt", examples=[6])
    one_of: list[list[str]] = Field(
        default_factory=list,
        description="words or phrases, of each list of which a statement has at least one",
        examples=[[["river", "stone"]]],
    )
    none_of: list[str] = Field(
        default_factory=list, description="words or phrases that a statement may not have", examples=[["river"]]
    )
    most_words: PositiveInt | None = Field(None, description="words of a statement, at most; none: any", examples=[2])
    accept: float = Field(0.5, description="sum of the judges from which a statement is accepted", examples=[0.9])
    best: PositiveInt | None = Field(
        None, description="statements kept of a prompt, the likeliest; none: all", examples=[1]
    )
    temperature: NonNegativeFloat = Field(1.0, description="at which statements are drawn", examples=[0.5])
    max_new_tokens: PositiveInt = Field(32, description="longest statement, in tokens", examples=[2])
    model: str = Field(
        "start",
        description="what writes: start (of the stage), base, previous, stages.NAME, or one of the recipe's `models`",
        examples=["base"],
    )

    tasks: ClassVar[tuple[str, ...] | None] = ("text-generation",)
    papers: ClassVar[tuple[str, ...]] = ("i2d2",)
    conformance: ClassVar[dict[str, object]] = {"samples": 4, "accept": 0.3, "max_new_tokens": 8}

    @model_validator(mode="after")
    def _sound(self) -> I2D2:
        if self.samples > 1 and self.temperature == 0:
            raise ValueError(f"{self.samples} statements at temperature 0 are one and the same: write temperature: 0.7")
        if not all(self.one_of) or not all(w.strip() for w in [*self.none_of, *sum(self.one_of, [])]):
            raise ValueError("one_of and none_of hold words: write one_of: [[can, may]] and none_of: [he, she]")
        return self

    def speakers(self) -> tuple[str, ...]:
        return (self.model,)

    def makes(self, count: int) -> int | None:
        return count * self.samples

    def stand_in(self, record: Record, labels: Sequence[str] | None) -> Record:
        return record if record.get("completion") or "prompt" not in record else record.replace(completion="...")

    def synthesize(self, records: Sequence[Record], writers: dict[str, Writer], score: Scored) -> list[Made]:
        asked = [self.stand_in(r, None) for r in records]
        answers = writers[self.model].generate(
            asked, count=self.samples, max_new_tokens=self.max_new_tokens, temperature=self.temperature
        )
        why = [self._broken(some) for some in answers]
        flat = [(i, k) for i, some in enumerate(why) for k, broken in enumerate(some) if not broken]
        scores = score([(asked[i], answers[i][k].text) for i, k in flat])
        judged = dict(zip(flat, scores, strict=True))
        out = []
        for i, (record, some) in enumerate(zip(records, answers, strict=True)):
            accepted = [k for k in range(len(some)) if judged.get((i, k), -float("inf")) >= self.accept]
            likely = sorted(accepted, key=lambda k: -_mean(some[k]))[: self.best]
            for k, written in enumerate(some):
                thrown = why[i][k] or ("" if k in accepted else "the critic does not accept it")
                thrown = thrown or ("" if k in likely else "others are likelier")
                told = {"judged": judged[i, k]} if (i, k) in judged else {}
                out.append(Made(with_answer(record, written.text), record, written, thrown=thrown, scores=told))
        return out

    def _broken(self, some: Sequence[Written]) -> list[str]:
        """Why each statement of a prompt goes before it is judged; "" for those that stay."""
        out, said = list[str](), set[str]()
        for written in some:
            plain = " ".join(written.text.split()).casefold()
            thrown = written.nothing or ("" if written.ended else "cut off") or self._against(plain)
            out.append(thrown or ("said before" if plain in said else ""))
            said.add(plain)
        return out

    def _against(self, plain: str) -> str:
        """What a statement breaks; "" where it keeps to all constraints."""
        if self.most_words is not None and len(plain.split()) > self.most_words:
            return "too many words"
        if any(_has(plain, word) for word in self.none_of):
            return "it has a word that it may not have"
        if not all(any(_has(plain, word) for word in clause) for clause in self.one_of):
            return "it lacks a word that it needs"
        return ""


def _has(plain: str, word: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(' '.join(word.split()).casefold())}(?!\w)", plain) is not None


def _mean(written: Written) -> float:
    """Mean log-probability a token; 0 where the writer does not tell, so that the first drawn stay."""
    return written.log_prob / max(1, written.tokens) if written.log_prob is not None else 0.0
