"""S3FT: train on the model's own answer where it is right, on its own paraphrase of the reference where that is right,
and on the reference only otherwise (Gupta et al. 2025, arXiv:2502.08130; papers: s3ft).

For each record (x, y) the model writes `samples` answers to x. With a judge J (the rewards beside it under
`synthesize`, whose sum is at least `right` for a right answer) the record that is trained on is

    (x, a)   for the first own answer a with J(x, a) >= right
    (x, p)   else, for the model's paraphrase p of y, given x and y, where J(x, p) >= right
    (x, y)   else

so that the targets stay as near to what the model says by itself as being right allows, and fewer of its other ways of
speaking are unlearnt. Answers that were cut off at `max_new_tokens` are not right. Those that are not taken are in the
run's folder with the reason. With `rounds` the answers are drawn anew from what the round before made.

Defaults: one greedy answer (temperature 0), as standard decoding gives it (ours); more than one need a temperature.

Differs from the paper in: judges are rewards that compare texts with the reference (`exact-answer`, `numeric-answer`,
or one of yours), there also a language model and tests of programs; the words that ask for a paraphrase are ours.
Written after the paper's abstract and method.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from tunewright.contract.made import Made
from tunewright.contract.method import Method
from tunewright.contract.records import Record
from tunewright.contract.writer import Writer, Written
from tunewright.data.synthesize._answers import question_and_answer, with_answer

ASK = """\
Here is a question and its answer.

Question:
{question}

Answer:
{answer}

Give the same answer in your own words. Keep every fact, number and result as it is, and write nothing else."""


def taken(right: Sequence[bool]) -> int | None:
    """Place of the first answer that is right; None where none is."""
    return next((i for i, one in enumerate(right) if one), None)


class S3FT(Method):
    """Own right answers, else own right paraphrases of the reference, else the reference."""

    samples: PositiveInt = Field(1, description="own answers to each prompt", examples=[3])
    temperature: NonNegativeFloat = Field(
        0.0, description="of own answers and paraphrases; 0: the most likely one", examples=[0.7]
    )
    max_new_tokens: PositiveInt = Field(256, description="longest answer, in tokens", examples=[32])
    paraphrase: bool = Field(True, description="whether the model paraphrases references that it does not hit itself")
    right: float = Field(1.0, description="sum of the judges from which an answer is right", examples=[0.5])
    model: str = Field(
        "start",
        description="whose answers: start (of the stage), base, previous, stages.NAME, or one of the recipe's `models`",
        examples=["base"],
    )

    tasks: ClassVar[tuple[str, ...] | None] = ("text-generation",)
    papers: ClassVar[tuple[str, ...]] = ("s3ft",)
    conformance: ClassVar[dict[str, object]] = {"samples": 2, "temperature": 1.0, "max_new_tokens": 3, "right": 0.1}

    @model_validator(mode="after")
    def _several_differ(self) -> S3FT:
        if self.samples > 1 and self.temperature == 0:
            raise ValueError(f"{self.samples} answers at temperature 0 are one and the same: write temperature: 0.7")
        return self

    def speakers(self) -> tuple[str, ...]:
        return (self.model,)

    def synthesize(
        self,
        records: Sequence[Record],
        writers: dict[str, Writer],
        score: Callable[[Sequence[tuple[Record, str]]], list[float]],
    ) -> list[Made]:
        pairs = [question_and_answer(r) for r in records]
        writer = writers[self.model]
        limit: dict[str, Any] = {"max_new_tokens": self.max_new_tokens, "temperature": self.temperature}
        own = writer.generate(records, count=self.samples, **limit)
        found: dict[int, Made] = {}
        left: list[Made] = []  # answers that are not taken
        for i, (answers, scores) in enumerate(zip(own, self._scored(records, own, score), strict=True)):
            first = taken([self._is_right(w, s) for w, s in zip(answers, scores, strict=True)])
            for k, (w, s) in enumerate(zip(answers, scores, strict=True)):
                one = Made(with_answer(records[i], w.text), records[i], w, scores={"judged": s})
                if k == first:
                    found[i] = one
                else:
                    left.append(_without(one, "another answer is right" if self._is_right(w, s) else "not right"))
        missed = [i for i in range(len(records)) if i not in found] if self.paraphrase else []
        again = writer.generate([ASK.format(question=pairs[i][0], answer=pairs[i][1]) for i in missed], **limit)
        judged = self._scored([records[i] for i in missed], again, score)
        for i, (w,), (s,) in zip(missed, again, judged, strict=True):
            one = Made(with_answer(records[i], w.text), records[i], w, scores={"judged": s})
            if self._is_right(w, s):
                found[i] = one
            else:
                left.append(_without(one, "the paraphrase is not right"))
        return [*(found.get(i, Made(dict(r), r)) for i, r in enumerate(records)), *left]

    def _is_right(self, written: Written, scored: float) -> bool:
        return not written.nothing and written.ended and scored >= self.right

    def _scored(
        self,
        records: Sequence[Record],
        answers: Sequence[Sequence[Written]],
        score: Callable[[Sequence[tuple[Record, str]]], list[float]],
    ) -> list[list[float]]:
        flat = iter(score([(r, w.text) for r, some in zip(records, answers, strict=True) for w in some]))
        return [[next(flat) for _ in some] for some in answers]


def _without(one: Made, reason: str) -> Made:
    written = one.written
    assert written is not None
    cut = "cut off" if not written.ended else ""
    return Made(one.values, one.of, written, thrown=written.nothing or cut or reason, scores=one.scores)
