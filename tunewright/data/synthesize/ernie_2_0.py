"""ERNIE 2.0: rows of pretext tasks about words, structure and meaning, made out of plain text (Sun et al. 2019,
arXiv:1907.12412; papers: ernie-2-0).

A text is cut into pieces: its sentences, and of longer ones `words` words at a time. Each pretext makes rows for
text-classification, as many of each text as `pretexts` says:

    capitalisation   a piece in lower case, one word between two marks: did it begin with a `capital`, or `lower`?
    token-document   a piece, one word between two marks: is it in another piece of the text `again`, or `once`?
    reordering       a piece cut into n segments, shuffled, marks between, n from 1 .. `segments`: what stands where,
                     `order 2-3-1`, one of the 1! + .. + `segments`! orders
    distance         two pieces, a mark between: `adjacent`, `same text` or `other text`
    discourse        a piece with a mark in a connective's place: which of `CONNECTIVES` was it?

Labels are drawn evenly where the text has both, and so are places and orders; draws are keyed by (seed, record,
pretext). With `announce` the pretext's name stands before the text, in the place of the paper's task embedding. What a
text cannot give (a connective, a second piece) is thrown away with the reason. A column `pretext` says which one a row
is of, and the page counts them.

Pre-training is a recipe of stages (recipes/papers/ernie-2-0.yaml): each goes on from the one before, with one pretext
more, and trains all of them so far together. How many rows a pretext has in a stage is its share of that stage's
iterations. The authors' sequential multi-task learning gives every pretext as many steps in all, most of them when it
is new: of four with 50k each, 20k, 10k, 10k, 10k of the first, 30k, 10k, 10k of the second, 40k and 10k of the third,
50k of the last (as we remember their table, which was not read again); so later stages are longer. `data.labels` lists
the labels of all pretexts (`labels_of` gives them).

Defaults: two pretexts of words and two of structure, a row of each; the marks, lengths and connectives are ours, three
segments as in the paper.
Errors: DataError for a row without text. A row whose label `data.labels` lacks is thrown away with the reason.
Differs from the paper in: one word is asked about at a time, through a classifier's head, where its word-aware tasks
label every token; masked words are no pretext here, since a run has one task (a fill-mask run may come before);
relevance of queries needs a search engine's log and is left out; connectives are a short list. Written after the
abstract and what is generally known of the paper, without the authors' code for pre-training.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import permutations
from typing import ClassVar, Literal

from pydantic import Field, PositiveInt

from tunewright.contract.made import Made
from tunewright.contract.method import Method
from tunewright.contract.records import Record
from tunewright.errors import DataError

Pretext = Literal["capitalisation", "token-document", "reordering", "distance", "discourse"]
Found = tuple[str, str]
"""(text, label) of a row."""
CONNECTIVES = ("because", "but", "however", "if", "so", "then", "though", "when", "while")
MARK = "*"


def pieces(text: str, words: int) -> list[list[str]]:
    """The words of each sentence, of longer ones so many at a time."""
    sentences = (s.split() for s in re.split(r"(?<=[.!?])\s+|\n+", text))
    return [s[i : i + words] for s in sentences for i in range(0, len(s), words)]


def orders(segments: int) -> list[str]:
    """The classes of reordering: every order of 1 .. `segments` segments."""
    return [
        "order " + "-".join(map(str, order)) for n in range(1, segments + 1) for order in permutations(range(1, n + 1))
    ]


def labels_of(pretexts: Collection[Pretext], segments: int = 3) -> list[str]:
    """What `data.labels` lists for these pretexts."""
    each: dict[Pretext, Sequence[str]] = {
        "capitalisation": ("capital", "lower"),
        "token-document": ("again", "once"),
        "reordering": orders(segments),
        "distance": ("adjacent", "same text", "other text"),
        "discourse": CONNECTIVES,
    }
    return [label for pretext, labels in each.items() if pretext in pretexts for label in labels]


def bare(word: str) -> str:
    """A word without case and without what stands around its letters and digits."""
    return re.sub(r"^\W+|\W+$", "", word).casefold()


def _marked(words: Sequence[str], at: int) -> str:
    return " ".join([*words[:at], MARK, words[at], MARK, *words[at + 1 :]])


def _one_of(found: Mapping[str, Sequence[tuple[int, int]]], rng: random.Random) -> tuple[str, int, int] | None:
    """A label, evenly out of those that have a place, and one of its places."""
    there = [label for label, places in found.items() if places]
    if not there:
        return None
    label = rng.choice(there)
    return (label, *rng.choice(found[label]))


def capitalised(parts: Sequence[Sequence[str]], rng: random.Random) -> Found | None:
    """Does a word begin with a capital? The first word of a piece is never asked about."""
    places = [(i, k) for i, part in enumerate(parts) for k in range(1, len(part)) if part[k][0].isalpha()]
    drawn = _one_of(
        {
            "capital": [(i, k) for i, k in places if parts[i][k][0].isupper()],
            "lower": [(i, k) for i, k in places if parts[i][k][0].islower()],
        },
        rng,
    )
    return drawn and (_marked([w.lower() for w in parts[drawn[1]]], drawn[2]), drawn[0])


def in_document(parts: Sequence[Sequence[str]], rng: random.Random) -> Found | None:
    """Does a word of one piece come in another one of the text?"""
    if len(parts) < 2:
        return None
    known = [{bare(w) for w in part} for part in parts]
    found: dict[str, list[tuple[int, int]]] = {"again": [], "once": []}
    for i, part in enumerate(parts):
        others = set[str]().union(*known[:i], *known[i + 1 :])
        for k, word in enumerate(part):
            if bare(word):
                found["again" if bare(word) in others else "once"].append((i, k))
    drawn = _one_of(found, rng)
    return drawn and (_marked(parts[drawn[1]], drawn[2]), drawn[0])


def reordered(parts: Sequence[Sequence[str]], segments: int, rng: random.Random) -> Found | None:
    """In which order do the segments of a piece stand?"""
    long = [part for part in parts if len(part) >= segments]
    if not long:
        return None
    part, n = rng.choice(long), rng.randint(1, segments)
    cuts = [0, *sorted(rng.sample(range(1, len(part)), n - 1)), len(part)]
    order = rng.sample(range(n), n)
    shown = [" ".join(part[cuts[k] : cuts[k + 1]]) for k in order]
    return f" {MARK} ".join(shown), "order " + "-".join(str(k + 1) for k in order)


def distant(
    parts: Sequence[Sequence[str]], others: Callable[[], Sequence[Sequence[str]]], rng: random.Random
) -> Found | None:
    """How far apart are two pieces? `others`: the pieces of another text."""
    apart = [(i, j) for i in range(len(parts)) for j in range(len(parts)) if abs(i - j) > 1]
    next_to = [(i, i + 1) for i in range(len(parts) - 1)]
    label = rng.choice(["adjacent"] * bool(next_to) + ["same text"] * bool(apart) + ["other text"])
    elsewhere = others() if label == "other text" else []
    if label == "other text":
        if not (parts and elsewhere):
            return None
        two = rng.choice(parts), rng.choice(elsewhere)
    else:
        i, j = rng.choice(next_to if label == "adjacent" else apart)
        two = parts[i], parts[j]
    return f" {MARK} ".join(" ".join(p) for p in two), label


def connected(parts: Sequence[Sequence[str]], rng: random.Random) -> Found | None:
    """Which connective stood where the mark stands? Two words at least stand on either side."""
    found: dict[str, list[tuple[int, int]]] = {c: [] for c in CONNECTIVES}
    for i, part in enumerate(parts):
        for k in range(2, len(part) - 2):
            if bare(part[k]) in found:
                found[bare(part[k])].append((i, k))
    drawn = _one_of(found, rng)
    if drawn is None:
        return None
    label, i, k = drawn
    return " ".join([*parts[i][:k], MARK, *parts[i][k + 1 :]]), label


class ERNIE2(Method):
    """Rows of pretext tasks about words, structure and meaning, out of plain text."""

    pretexts: dict[Pretext, PositiveInt] = Field(
        {"capitalisation": 1, "token-document": 1, "reordering": 1, "distance": 1},
        min_length=1,
        description="pretext -> rows of it that each text makes: its share of the stage's iterations",
        examples=[{"distance": 2}],
    )
    words: int = Field(24, ge=2, description="words of a piece, at most", examples=[2])
    segments: int = Field(
        3, ge=2, le=4, description="segments that reordering cuts a piece into, at most", examples=[2]
    )
    announce: bool = Field(True, description="whether the pretext's name stands before the text")

    tasks: ClassVar[tuple[str, ...] | None] = ("text-classification",)
    papers: ClassVar[tuple[str, ...]] = ("ernie-2-0",)
    conformance: ClassVar[dict[str, object]] = {"words": 4}

    def makes(self, count: int) -> int | None:
        return count * sum(self.pretexts.values())

    def stand_in(self, record: Record, labels: Sequence[str] | None) -> Record:
        shown = f" {MARK} ".join(" ".join(part) for part in pieces(_text(record), self.words)[:2])
        return record.replace(text=shown, **({"label": labels[0]} if labels else {}))

    def synthesize(self, records: Sequence[Record], rng: random.Random) -> list[Made]:
        begin, cut = rng.getrandbits(64), [pieces(_text(r), self.words) for r in records]
        out = []
        for i, record in enumerate(records):
            for pretext, count in self.pretexts.items():
                draws = random.Random(f"{begin}/{record.id}/{pretext}")
                for _ in range(count):
                    found = self._row(pretext, cut, i, draws)
                    if found is None:
                        out.append(Made(dict(record), record, thrown=f"the text gives no row for {pretext}"))
                        continue
                    text = f"{pretext}: {found[0]}" if self.announce else found[0]
                    values = {"text": text, "label": found[1], "pretext": pretext}
                    out.append(Made(values, record, verdict=pretext))
        return out

    def _row(self, pretext: Pretext, cut: Sequence[list[list[str]]], i: int, rng: random.Random) -> Found | None:
        def others() -> list[list[str]]:
            return cut[(i + rng.randrange(1, len(cut))) % len(cut)] if len(cut) > 1 else []

        make: dict[Pretext, Callable[[], Found | None]] = {
            "capitalisation": lambda: capitalised(cut[i], rng),
            "token-document": lambda: in_document(cut[i], rng),
            "reordering": lambda: reordered(cut[i], self.segments, rng),
            "distance": lambda: distant(cut[i], others, rng),
            "discourse": lambda: connected(cut[i], rng),
        }
        return make[pretext]()


def _text(record: Record) -> str:
    text = record.get("text")
    if not isinstance(text, str) or not text.strip():
        raise DataError(
            "the record has no text to make rows of",
            where=record.where,
            remedy="name its column in the source: columns: {text: your_column}",
        )
    return text
