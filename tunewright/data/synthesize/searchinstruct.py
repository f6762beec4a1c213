"""SearchInstruct: a few questions of a domain become many, and each is answered from documents looked up for it (Barati
et al. 2025, arXiv:2509.10708; papers: searchinstruct).

Rows of `data.train` that ask something are seeds, rows of plain text are documents; what seeds answer is not looked
at.

    seeds       `iterations` times `shown` of them are drawn, and the model writes `new` questions of their kind
    questions   those that were asked before (case and punctuation aside) go; the others look up, by BM25,
    documents   the `documents` that fit best and share a word; with them and the question the model writes
    answers     which go where they are cut off, say that the documents do not tell, or have less than a share
                `grounded` of their words in the documents or the question

A row has the question as its prompt, the answer as its completion, and the ids of its `documents`; these are not read
in training, so that what they say is learnt. With documents of new facts the same recipe updates a model.

Defaults: questions at temperature 0.5 and answers at 0.1, seeds themselves are not answered (the authors' code); 5
iterations of 10 questions after 5 seeds, three documents, grounded 0.5 (ours).
Errors: DataError where there is no seed or no document among the rows.
Source: mostafaamiri/SearchInstruct, pipeline.py, utils/Sampler.py and utils/Responder.py.
Differs from the paper in: documents are the recipe's own, found by their words, in the place of pages of a web search;
an answer's words are held against its documents; the words of the questions are ours.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field, NonNegativeFloat, PositiveInt

from tunewright.contract.made import Made
from tunewright.contract.method import Method
from tunewright.contract.records import Record
from tunewright.contract.writer import Writer, Written
from tunewright.data.neighbours import bm25
from tunewright.data.select._text import asked
from tunewright.data.synthesize._answers import document_of, json_texts, plain_lines
from tunewright.errors import DataError

NO_ANSWER = "NOT IN THE DOCUMENTS"
MORE = """\
These are questions that people ask:
{seeds}

Write {new} other questions of the same field, each on something else and complete by itself. Answer with JSON alone: \
{{"questions": ["...", "..."]}}"""
ANSWER = """\
{documents}

Answer this question with what these documents say, and without speaking of them. If they do not say it, write \
{no_answer}.

Question: {question}"""


def plain(text: str) -> str:
    """A question as it is compared with others."""
    return " ".join(re.findall(r"\w+", text.lower()))


def questions_in(text: str) -> list[str]:
    """The questions in an answer: of JSON, else its lines."""
    found = json_texts(text)
    return [q.strip() for q in (plain_lines(text) if found is None else found) if plain(q)]


class SearchInstruct(Method):
    """Questions of a domain after a few seeds, answered from documents that are looked up."""

    iterations: PositiveInt = Field(5, description="times that questions are asked for", examples=[1])
    shown: PositiveInt = Field(5, description="seeds that are shown each time", examples=[1])
    new: PositiveInt = Field(10, description="questions that are asked for each time", examples=[2])
    seeds: bool = Field(False, description="whether the seeds are answered as well")
    documents: PositiveInt = Field(3, description="documents that a question is answered from, at most", examples=[1])
    grounded: float = Field(
        0.5, ge=0, le=1, description="share of an answer's words that its documents or question have", examples=[0.9]
    )
    max_new_tokens: PositiveInt = Field(512, description="longest answer, in tokens", examples=[2])
    temperature: NonNegativeFloat = Field(0.5, description="at which questions are drawn", examples=[1.0])
    answer_temperature: NonNegativeFloat = Field(0.1, description="at which answers are drawn", examples=[1.0])
    model: str = Field(
        "start",
        description="what writes: start (of the stage), base, previous, stages.NAME, or one of the recipe's `models`",
        examples=["base"],
    )

    tasks: ClassVar[tuple[str, ...] | None] = ("text-generation",)
    papers: ClassVar[tuple[str, ...]] = ("searchinstruct",)
    conformance: ClassVar[dict[str, object]] = {"seeds": True, "grounded": 0.0, "max_new_tokens": 8}

    def speakers(self) -> tuple[str, ...]:
        return (self.model,)

    def makes(self, count: int) -> int | None:
        return self.iterations * self.new + self.seeds * count

    def stand_in(self, record: Record, labels: Sequence[str] | None) -> Record:
        return record if record.get("completion") or not record.get("prompt") else record.replace(completion="0")

    def synthesize(self, records: Sequence[Record], writers: dict[str, Writer], rng: random.Random) -> list[Made]:
        seeds, texts = [r for r in records if asked(r)], [r for r in records if r.get("text")]
        if not seeds or not texts:
            raise DataError(
                f"of {len(records):,} rows none is {'plain text' if seeds else 'a question'}",
                where="data.train",
                remedy="give both: rows with a prompt (seeds), and rows with a text, or .txt files (documents)",
            )
        writer, out = writers[self.model], list[Made]()
        wanted = [(asked(r), r) for r in seeds] if self.seeds else []
        wanted += self._more(seeds, writer, rng, out)
        scores = bm25([document_of(r) for r in texts], [q for q, _ in wanted]) if wanted else []
        found = []
        for (question, seed), row in zip(wanted, scores, strict=True):
            best = sorted(zip((-row.data).tolist(), row.indices.tolist(), strict=True))[: self.documents]
            if best:
                found.append((question, seed, [texts[i] for _, i in best]))
            else:
                out.append(Made({"prompt": question}, seed, thrown="no document has a word of the question"))
        prompts = [
            ANSWER.format(documents="\n\n".join(map(document_of, some)), no_answer=NO_ANSWER, question=question)
            for question, _, some in found
        ]
        answers = writer.generate(prompts, max_new_tokens=self.max_new_tokens, temperature=self.answer_temperature)
        for (question, seed, some), (written,) in zip(found, answers, strict=True):
            out.append(self._made(question, seed, some, written))
        return out

    def _more(
        self, seeds: Sequence[Record], writer: Writer, rng: random.Random, out: list[Made]
    ) -> list[tuple[str, Record]]:
        """New questions, each with the first seed that it was written after; what is none is put `out`."""
        drawn = [rng.sample(list(seeds), min(self.shown, len(seeds))) for _ in range(self.iterations)]
        lists = ["\n".join(f"- {asked(r)}" for r in some) for some in drawn]
        prompts = [MORE.format(seeds=shown, new=self.new) for shown in lists]
        answers = writer.generate(prompts, max_new_tokens=self.max_new_tokens, temperature=self.temperature)
        known, found = {plain(asked(r)) for r in seeds}, list[tuple[str, Record]]()
        for (seed, *_), (written,) in zip(drawn, answers, strict=True):
            told = questions_in(written.text)[: self.new]
            if not told:
                why = written.nothing or "no question can be read in it"
                out.append(Made({"prompt": written.text}, seed, written, thrown=why))
            for question in told:
                if plain(question) in known:
                    out.append(Made({"prompt": question}, seed, written, thrown="it was asked before"))
                    continue
                known.add(plain(question))
                found.append((question, seed))
        return found

    def _made(self, question: str, seed: Record, texts: Sequence[Record], written: Written) -> Made:
        words = plain(written.text).split()
        there = set(plain(" ".join([question, *map(document_of, texts)])).split())
        share = sum(w in there for w in words) / len(words) if words else 0.0
        thrown = written.nothing or ("" if written.ended else "cut off")
        if not thrown and plain(NO_ANSWER) in plain(written.text):
            thrown = "the documents do not say it"
        elif not thrown and share < self.grounded:
            thrown = "it says what is not in the documents"
        row = {"prompt": question, "completion": written.text.strip(), "documents": [r.id for r in texts]}
        return Made(row, seed, written, thrown=thrown, scores={"grounded": share})
