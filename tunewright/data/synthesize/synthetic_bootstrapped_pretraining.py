"""Synthetic bootstrapped pre-training: a model that has learnt how documents of a corpus relate writes new ones after
them, and what is trained reads both (Yang et al. 2025, arXiv:2509.15248; papers: synthetic-bootstrapped-pretraining).

The corpus D becomes D and S. For S, seeds d are drawn from D, `times` |D| of them (each document as often as any other,
one more or less), and the synthesizer writes d' ~ p(d' | d) for each. A text is thrown away where

    repeated  more than this share of its runs of `words` words were in it before: it goes round in circles
    copied    at least this share of its different runs is in its seed: it says the seed again

so that a synthesizer that only copies or stutters leaves D alone. D stays as it is; the budget in tokens says how often
both are read. The method is a recipe of three stages, from nothing or from a base:

    first      the corpus itself
    relates    start: stages.first, synthesize: [related-pairs]           p(d' | d), trained on d' alone
    joint      start: base, synthesize: [{synthetic-bootstrapped-pretraining: {model: stages.relates}}]

Defaults: a text for each document, temperature 1, 512 tokens; repeated 0.2, copied 0.5, runs of five words (ours).
Errors: DataError for a row that has no text.
Differs from the paper in: the whole distribution is drawn from, without nucleus; the two filters are rules of ours on
runs of words. Written after the abstract and summaries of the method, without the authors' code.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from tunewright.contract.made import Made
from tunewright.contract.method import Method
from tunewright.contract.records import Record
from tunewright.contract.writer import Writer, Written
from tunewright.data.neighbours import runs
from tunewright.data.synthesize._answers import document_of, related_to

REAL, NEW = "of the corpus", "written after one of it"


class SyntheticBootstrappedPretraining(Method):
    """The corpus beside texts that a synthesizer wrote after its documents."""

    times: PositiveFloat = Field(
        1.0, description="texts that are written for each document, on average", examples=[2.5]
    )
    repeated: float = Field(
        0.2, ge=0, le=1, description="share of a text's runs of words that may have been in it before", examples=[0]
    )
    copied: float = Field(
        0.5, ge=0, le=1, description="share of its different runs in the seed from which it is a copy", examples=[0]
    )
    words: PositiveInt = Field(5, description="words of a run", examples=[2])
    max_new_tokens: PositiveInt = Field(512, description="longest text, in tokens", examples=[2])
    temperature: NonNegativeFloat = Field(1.0, description="at which texts are drawn", examples=[0.5])
    model: str = Field(
        "previous",
        description="the synthesizer: previous (what the stage before made), start, stages.NAME, or one of `models`",
        examples=["base"],
    )

    tasks: ClassVar[tuple[str, ...] | None] = ("text-generation",)
    papers: ClassVar[tuple[str, ...]] = ("synthetic-bootstrapped-pretraining",)
    conformance: ClassVar[dict[str, object]] = {"words": 1, "max_new_tokens": 8, "repeated": 0.3}

    def speakers(self) -> tuple[str, ...]:
        return (self.model,)

    def makes(self, count: int) -> int | None:
        return count + round(self.times * count)

    def synthesize(self, records: Sequence[Record], writers: dict[str, Writer], rng: random.Random) -> list[Made]:
        out = [Made(dict(r), r, verdict=REAL) for r in records]
        begin, whole = rng.getrandbits(64), int(self.times)
        by_lot = sorted(range(len(records)), key=lambda i: random.Random(f"{begin}/{records[i].id}").random())
        more = set(by_lot[: round(self.times * len(records)) - whole * len(records)])
        for count, seeds in ((whole, records), (1, [r for i, r in enumerate(records) if i in more])):
            if not count or not seeds:
                continue
            texts = writers[self.model].generate(
                [related_to(r) for r in seeds],
                count=count,
                max_new_tokens=self.max_new_tokens,
                temperature=self.temperature,
            )
            out += [self._made(seed, written) for seed, some in zip(seeds, texts, strict=True) for written in some]
        return out

    def _made(self, seed: Record, written: Written) -> Made:
        new, old = runs(written.text, self.words), set(runs(document_of(seed), self.words))
        found = set(new)
        scores = {
            "repeated": 1 - len(found) / len(new) if new else 0.0,
            "copied": len(found & old) / len(found) if new else 0.0,
        }
        thrown = written.nothing
        if not thrown and scores["repeated"] > self.repeated:
            thrown = "it goes round in circles"
        elif not thrown and scores["copied"] >= self.copied:
            thrown = "it says its seed again"
        row = {"text": written.text, "seed": seed.id}
        return Made(row, seed, written, thrown=thrown, scores=scores, verdict="" if thrown else NEW)
