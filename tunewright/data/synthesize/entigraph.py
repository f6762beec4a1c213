"""EntiGraph: a small corpus becomes a large one, of texts on how its entities relate (Yang et al. 2024,
arXiv:2409.07431; papers: entigraph).

For each document D a model names its entities E_1 .. E_n. Of all pairs {E_i, E_j} and all triples {E_i, E_j, E_k},
`most_pairs` and `most_triples` are drawn without replacement, and for each of them the model, given D, writes a text on
how they relate in it. These texts are what the stage trains on, as plain text; the documents themselves are not. Mix
general text in by `data.replay` (the paper: a tenth of the tokens), so that it is not lost.

    documents -> entities (one question each) -> C(n, 2) pairs and C(n, 3) triples -> one text each

A document says each fact once and in one order. The texts say it many times, from many sides: from a fact about E_i and
one about E_j follow sentences that D does not contain.

Defaults: 50 pairs and 50 triples of a document (ours; the authors take every pair and triples until they have tokens
enough), 512 tokens of a text, temperature 1. A list of entities that cannot be read is asked for `tries` times.

Differs from the paper in: texts on single entities, which the authors' code asks for too, are not written; the words of
the questions are ours; lists of entities are read where they are lines or JSON.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import combinations
from math import comb
from typing import ClassVar

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from tunewright.contract.made import Made
from tunewright.contract.method import Method
from tunewright.contract.records import Record
from tunewright.contract.writer import Writer, Written
from tunewright.data.synthesize._answers import document_of, json_texts, plain_lines

LONGEST = 120
"""Letters of an entity's name; a longer line is no name."""
NAME_THEM = """\
Read this document.

{document}

List the entities that it is about: people, places, organisations, works, events, terms and concepts. Answer with JSON \
alone: {{"entities": ["...", "..."]}}"""
RELATE = """\
Read this document.

{document}

Explain in a few paragraphs how these relate to each other in the document, with everything that it says about them \
together:
{names}"""


def entities_of(text: str) -> list[str]:
    """Names in an answer, in order and each once: of JSON (a list, or one under a key), else of its lines."""
    found: list[str] = []
    for name in _listed(text):
        plain = " ".join(name.split())
        if plain and len(plain) <= LONGEST and plain.lower() not in (f.lower() for f in found):
            found.append(plain)
    return found


def _listed(text: str) -> list[str]:
    found = json_texts(text)
    return found if found is not None else [name for line in plain_lines(text) for name in line.split(",")]


def groups(n: int, size: int, most: int | None, rng: random.Random) -> list[tuple[int, ...]]:
    """`most` different sets of `size` of n things, drawn at random (all of them where there are no more), in order."""
    total = comb(n, size)
    if most is None or total <= most:
        return list(combinations(range(n), size))
    if total <= 100_000:
        return sorted(rng.sample(list(combinations(range(n), size)), most))
    drawn: set[tuple[int, ...]] = set()
    while len(drawn) < most:
        drawn.add(tuple(sorted(rng.sample(range(n), size))))
    return sorted(drawn)


class EntiGraph(Method):
    """Texts on how the entities of each document relate."""

    most_pairs: NonNegativeInt | None = Field(50, description="pairs of entities of a document, at most; none: all")
    most_triples: NonNegativeInt | None = Field(50, description="triples of entities of a document, at most; none: all")
    max_new_tokens: PositiveInt = Field(512, description="longest text, and longest list of entities, in tokens")
    temperature: NonNegativeFloat = Field(1.0, description="at which texts are drawn; 0: the most likely one")
    tries: PositiveInt = Field(3, description="how often entities are asked for, where fewer than two can be read")
    model: str = Field(
        "start",
        description="what writes: start (of the stage), base, previous, stages.NAME, or one of the recipe's `models`",
        examples=["base"],
    )

    tasks: ClassVar[tuple[str, ...] | None] = ("text-generation", "fill-mask")
    papers: ClassVar[tuple[str, ...]] = ("entigraph",)
    conformance: ClassVar[dict[str, object]] = {"most_pairs": 2, "most_triples": 1, "max_new_tokens": 4}

    def speakers(self) -> tuple[str, ...]:
        return (self.model,)

    def makes(self, count: int) -> int | None:
        if self.most_pairs is None or self.most_triples is None:
            return None
        return count * (self.most_pairs + self.most_triples)

    def synthesize(self, records: Sequence[Record], writers: dict[str, Writer], rng: random.Random) -> list[Made]:
        writer, begin, made = writers[self.model], rng.getrandbits(64), list[Made]()
        named = self._named(records, writer, made)
        wanted = [
            (record, group)
            for record, names in zip(records, named, strict=True)
            for group in self._groups(names, random.Random(f"{begin}/{record.id}"))
        ]
        asked = [
            RELATE.format(document=document_of(r), names="\n".join(f"- {name}" for name in group))
            for r, group in wanted
        ]
        texts = writer.generate(asked, max_new_tokens=self.max_new_tokens, temperature=self.temperature)
        for (record, _), (written,) in zip(wanted, texts, strict=True):
            made.append(Made({"text": written.text}, record, written, thrown=written.nothing))
        return made

    def _named(self, records: Sequence[Record], writer: Writer, made: list[Made]) -> list[list[str]]:
        """The entities of each document; what cannot be read is among what was `made`, with the reason."""
        found: list[list[str]] = [[] for _ in records]
        for attempt in range(self.tries):
            left = [i for i, names in enumerate(found) if len(names) < 2]
            asked = [NAME_THEM.format(document=document_of(records[i])) for i in left]
            warm = self.temperature or float(attempt > 0)  # the most likely list would be the same again
            answers = writer.generate(asked, max_new_tokens=self.max_new_tokens, temperature=warm)
            for i, (written,) in zip(left, answers, strict=True):
                found[i] = entities_of(written.text)
                if len(found[i]) < 2:
                    made.append(_unread(records[i], written))
        return found

    def _groups(self, names: Sequence[str], rng: random.Random) -> Iterator[tuple[str, ...]]:
        for size, most in ((2, self.most_pairs), (3, self.most_triples)):
            for group in groups(len(names), size, most, rng):
                yield tuple(names[i] for i in group)


def _unread(record: Record, written: Written) -> Made:
    return Made(
        {"text": written.text}, record, written, thrown=written.nothing or "fewer than two entities can be read in it"
    )
