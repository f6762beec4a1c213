"""EDA: copies of each row with some words changed (Wei & Zou 2019, arXiv:1901.11196), the augmentation of rows that
Zhou et al. (2023) cross with efficient tuning (papers: data-augmentation-for-peft).

Each row stays, and `copies` of it follow, each by one of the `operations`, taken in turn from a shuffled order. With
n = max(1, round(amount * words)):

    swap      n times, the words at two random places change places
    delete    each word goes with probability `amount`; one drawn word stays where all would
    replace   n different words that have synonyms, all their occurrences, become one of theirs
    insert    n times, a synonym of a random word goes to a random place

A copy keeps its row's other columns, so its label or answer. One that says what its row or an earlier copy says is
thrown away, with the reason. Draws are keyed by the row.

Defaults: amount 0.1 (EDA's); 4 copies (EDA's for 5,000 rows; it makes 16 for 500, with 0.05); the two operations that
need no synonyms.

Differs from the paper in: synonyms are the recipe's own (`synonyms`: word -> others, case aside), where EDA takes
WordNet's; punctuation and case stay as they are; no list of stop words: a word without synonyms is none to replace.
Back-translation, the paper's third augmentation, is not here. Source: jasonwei20/eda_nlp for the operations.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, PositiveInt, model_validator

from tunewright.contract.made import Made
from tunewright.contract.method import Method
from tunewright.contract.records import Record
from tunewright.errors import DataError

Words = list[str]
Synonyms = Mapping[str, Sequence[str]]


def swap(words: Words, n: int, rng: random.Random) -> Words:
    """Two different places change their words, n times."""
    out = list(words)
    for _ in range(n if len(out) > 1 else 0):
        i, j = rng.sample(range(len(out)), 2)
        out[i], out[j] = out[j], out[i]
    return out


def delete(words: Words, p: float, rng: random.Random) -> Words:
    """Each word goes with probability p; one stays."""
    return [w for w in words if rng.random() >= p] or [rng.choice(words)]


def replace(words: Words, n: int, rng: random.Random, synonyms: Synonyms) -> Words:
    """n different words that have synonyms become one of these, wherever they stand."""
    having = list(dict.fromkeys(w.lower() for w in words if synonyms.get(w.lower())))
    turned = {w: rng.choice(synonyms[w]) for w in rng.sample(having, min(n, len(having)))}
    return [turned.get(w.lower(), w) for w in words]


def insert(words: Words, n: int, rng: random.Random, synonyms: Synonyms) -> Words:
    """A synonym of a random word goes to a random place, n times."""
    out, having = list(words), [w.lower() for w in words if synonyms.get(w.lower())]
    for _ in range(n if having else 0):
        out.insert(rng.randint(0, len(out)), rng.choice(synonyms[rng.choice(having)]))
    return out


class EDA(Method):
    """Rows, and copies of them with words swapped, left out, replaced or put in."""

    copies: PositiveInt = Field(4, description="changed copies of each row", examples=[1])
    amount: float = Field(0.1, gt=0, le=1, description="share of a text's words that an operation changes")
    operations: list[Literal["swap", "delete", "replace", "insert"]] = Field(
        ["swap", "delete"],
        min_length=1,
        description="what is done to copies, in turn",
        examples=[["delete"], ["replace"]],
    )
    synonyms: dict[str, list[str]] = Field(
        default_factory=dict,
        description="a word -> others that may stand for it; replace and insert need them",
        examples=[{"film": ["movie"]}],
    )
    column: str | None = Field(
        None, description="whose words are changed; none: those of text, else of prompt", examples=["completion"]
    )

    papers: ClassVar[tuple[str, ...]] = ("data-augmentation-for-peft",)
    conformance: ClassVar[dict[str, object]] = {
        "amount": 0.5,
        "operations": ["swap", "replace"],
        "synonyms": {str(i): [str(i + 1)] for i in range(100)},
    }

    @model_validator(mode="after")
    def _synonyms_are_there(self) -> EDA:
        needing = [o for o in self.operations if o in ("replace", "insert")]
        if needing and not any(self.synonyms.values()):
            raise ValueError(f"{needing[0]} needs synonyms: write synonyms: {{film: [movie, picture]}}")
        if self.synonyms and not needing:
            raise ValueError("nothing reads the synonyms: name replace or insert among operations")
        return self

    def makes(self, count: int) -> int | None:
        return count * (1 + self.copies)

    def synthesize(self, records: Sequence[Record], rng: random.Random) -> list[Made]:
        begin, known = rng.getrandbits(64), {w.lower(): others for w, others in self.synonyms.items()}
        out = []
        for record in records:
            column = self._column(record)
            out.append(Made(dict(record), record, verdict="as it was"))
            draws = random.Random(f"{begin}/{record.id}")
            order, said = draws.sample(self.operations, len(self.operations)), {tuple(record[column].split())}
            for k in range(self.copies):
                operation = order[k % len(order)]
                words = self._changed(operation, record[column].split(), draws, known)
                thrown = "it says what is there already" if tuple(words) in said else ""
                said.add(tuple(words))
                out.append(Made({**record, column: " ".join(words)}, record, thrown=thrown, verdict=operation))
        return out

    def _changed(self, operation: str, words: Words, rng: random.Random, synonyms: Synonyms) -> Words:
        n = max(1, round(self.amount * len(words)))
        done: dict[str, Callable[[], Words]] = {
            "swap": lambda: swap(words, n, rng),
            "delete": lambda: delete(words, self.amount, rng),
            "replace": lambda: replace(words, n, rng, synonyms),
            "insert": lambda: insert(words, n, rng, synonyms),
        }
        return done[operation]()

    def _column(self, record: Record) -> str:
        column = self.column or ("text" if "text" in record else "prompt")
        value: Any = record.get(column)
        if not isinstance(value, str) or not value.strip():
            raise DataError(
                f"the record has no text in '{column}' whose words could be changed",
                where=record.where,
                remedy="name the column: synthesize: [{eda: {column: NAME}}]",
            )
        return column
