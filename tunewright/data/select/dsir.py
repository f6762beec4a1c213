"""DSIR: pick records that resemble a target set, by importance resampling on hashed n-grams (papers: dsir).

A text becomes counts c of its lower-cased words and of pairs of neighbours, each hashed (sha256, the same on every
machine) into one of 10,000 buckets. With p the shares of buckets over all target texts and q over all candidates, a
candidate's log weight is w = c . (log(p + 1e-8) - log(q + 1e-8)), and the k largest of w + Gumbel noise are kept: a
draw without replacement in proportion to e^w. Two passes over the records, memory for the buckets and for k records.

The noise of a record is keyed by its source and id, so that it is the same wherever the record stands. w is a sum over
n-grams, as in the paper: long texts lie at both ends, where noise hardly counts. A bucket that the target lacks costs
its texts much; with a small target raise `smoothing`. Differs from the authors' package in: short texts are kept unless
`shortest` says otherwise (there: under 100 words are left out).
"""

from __future__ import annotations

import hashlib
import heapq
import math
import random
import re
from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, field_validator

from tunewright.contract.method import Method
from tunewright.contract.selected import Selected
from tunewright.data.select._keep import share
from tunewright.data.select._text import text_of
from tunewright.errors import DataError

WORDS = re.compile(r"\w+|[^\w\s]+")


def bucket(gram: str, buckets: int = 10_000) -> int:
    """Where an n-gram is counted: sha256 of its UTF-8 bytes as a number, modulo `buckets`."""
    return int(hashlib.sha256(gram.encode()).hexdigest(), 16) % buckets


def counts(text: str, n: int = 2, buckets: int = 10_000) -> tuple[dict[int, int], int]:
    """(bucket -> how many n-grams of 1 to n words fall into it, number of words)."""
    words, by_bucket = WORDS.findall(text.lower()), dict[int, int]()
    for size in range(1, n + 1):
        for i in range(len(words) - size + 1):
            b = bucket(" ".join(words[i : i + size]), buckets)
            by_bucket[b] = by_bucket.get(b, 0) + 1
    return by_bucket, len(words)


def log_ratio(target: np.ndarray, raw: np.ndarray, smoothing: float = 0.0) -> np.ndarray:
    """log(p + 1e-8) - log(q + 1e-8) of two vectors of counts; `smoothing` is added to each of the target's."""
    p, q = target + smoothing, raw / raw.sum()
    return np.asarray(np.log(p / p.sum() + 1e-8) - np.log(q + 1e-8))


def log_weight(found: Mapping[int, int], ratio: np.ndarray) -> float:
    """w of one text; it adds over n-grams."""
    return float(sum(c * ratio[b] for b, c in found.items()))


def gumbel(key: str) -> float:
    """Standard Gumbel noise, the same for the same key."""
    return -math.log(-math.log(random.Random(key).random() or 5e-324))


class DSIR(Method):
    """Importance resampling towards a target set."""

    keep: float = Field(
        0.1,
        gt=0,
        description="share of the records kept (below 1; 10% may be written), or how many (1 and more)",
        examples=["25%", 3],
    )
    ngrams: PositiveInt = Field(2, description="longest run of words that is counted")
    buckets: PositiveInt = Field(10_000, description="number of buckets that n-grams are hashed into")
    smoothing: NonNegativeFloat = Field(0.0, description="added to the target's count of every bucket")
    shortest: NonNegativeInt = Field(0, description="words below which a record is never kept", examples=[3])
    noise: bool = Field(True, description="draw with Gumbel noise; off: the k largest weights")

    papers: ClassVar[tuple[str, ...]] = ("dsir",)

    _percent = field_validator("keep", mode="before")(share)

    def _counted(self, records: Iterable[Mapping[str, Any]], what: str) -> np.ndarray:
        """[buckets] counts over all records."""
        total = np.zeros(self.buckets)
        for r in records:
            for b, c in counts(text_of(r), self.ngrams, self.buckets)[0].items():
                total[b] += c
        if not total.any():
            raise DataError(
                f"the {what} hold no words", remedy="dsir reads text: give rows with text, prompt or messages"
            )
        return total

    def select(self, records: Sequence[Any], target: Sequence[Any], rng: random.Random) -> Selected:
        like, raw = self._counted(target, "target's records"), self._counted(records, "records to choose from")
        if not (like * raw).any():
            raise DataError(
                "the target's records and those to choose from have nothing in common: not one word",
                remedy="give a target in the language and the shape of the rows",
            )
        ratio = log_ratio(like, raw, self.smoothing)
        k, salt = round(self.keep * len(records)) if self.keep < 1 else int(self.keep), rng.getrandbits(63)

        weights, short = array("d"), set[int]()

        def scored() -> Iterable[tuple[float, int]]:
            for i, r in enumerate(records):
                by_bucket, words = counts(text_of(r), self.ngrams, self.buckets)
                weights.append(log_weight(by_bucket, ratio))
                if words >= self.shortest:
                    yield weights[i] + (gumbel(f"{salt}/{r.source}/{r.id}") if self.noise else 0.0), i
                else:
                    short.add(i)

        kept = sorted(i for _, i in heapq.nlargest(max(1, k), scored()))
        inside, against = set(kept), "not drawn" if self.noise else "weight below those kept"
        reasons = [
            "" if i in inside else f"fewer than {self.shortest} words" if i in short else against
            for i in range(len(weights))
        ]
        return Selected(kept, scores={"weight": weights}, reasons=reasons)
