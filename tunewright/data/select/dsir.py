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
from array import array
from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import ClassVar

import numpy as np
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from tunewright.contract.method import Method
from tunewright.contract.records import Record
from tunewright.contract.selected import Selected
from tunewright.data.select._keep import Amount, drawn, how_many
from tunewright.data.select._text import in_batches
from tunewright.data.select._words import SPREAD, Tokens, tokens
from tunewright.errors import DataError

TABLE = 1 << 21
"""Runs of words whose buckets are remembered."""


def bucket(gram: str, buckets: int = 10_000) -> int:
    """Where an n-gram is counted: sha256 of its UTF-8 bytes as a number, modulo `buckets`."""
    return int.from_bytes(hashlib.sha256(gram.encode("utf-8", "surrogatepass")).digest(), "big") % buckets


class Grams:
    """The n-grams of texts by bucket. Hashing is what takes long: an n-gram that a table of `TABLE` places holds is not
    hashed again.
    """

    def __init__(self, n: int = 2, buckets: int = 10_000):
        self.n, self.buckets = n, buckets
        self._keys, self._found = np.zeros(TABLE, np.uint64), np.zeros(TABLE, np.int32)

    def of(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """([G] buckets of all runs of 1 to n words, [G] which text each run stands in, [T] words of each text)."""
        held = tokens(texts)
        found, where = [], []
        for size in range(1, self.n + 1):
            keys, starts = held.runs(size)
            found.append(self._buckets(keys, starts, held, size))
            where.append(held.text[starts])
        return np.concatenate(found), np.concatenate(where), np.bincount(held.text, minlength=len(texts))

    def _buckets(self, keys: np.ndarray, starts: np.ndarray, held: Tokens, size: int) -> np.ndarray:
        slots = (keys * SPREAD) >> np.uint64(65 - TABLE.bit_length())
        found = self._found[slots].astype(np.int64)
        missing = np.flatnonzero(self._keys[slots] != keys)
        if len(missing):
            fresh, first, back = np.unique(keys[missing], return_index=True, return_inverse=True)
            runs = held.said(starts[missing[first]], size)
            more = np.fromiter(map(bucket, runs, repeat(self.buckets)), np.int64, len(fresh))
            found[missing] = more[back]
            self._keys[slots[missing[first]]], self._found[slots[missing[first]]] = fresh, more
        return found


class _Words:
    """Whether texts hold any word of those that were seen before: buckets cannot tell, since words share them."""

    def __init__(self) -> None:
        self.found, self._known, self._looks = False, np.zeros(0, np.uint64), False

    def see(self, texts: Sequence[str]) -> None:
        """Remember the texts' words or, once there is something to find, look for one that is known."""
        if self.found:
            return
        keys = np.unique(tokens(texts).runs(1)[0])
        if self._looks:
            self.found = bool(np.isin(keys, self._known, assume_unique=True).any())
        else:
            self._known = np.union1d(self._known, keys)

    def to_find(self) -> _Words:
        """Itself, from now on looking for what it knows."""
        self._looks = True
        return self


def log_ratio(target: np.ndarray, raw: np.ndarray, smoothing: float = 0.0) -> np.ndarray:
    """log(p + 1e-8) - log(q + 1e-8) of two vectors of counts; `smoothing` is added to each of the target's."""
    p, q = target + smoothing, raw / raw.sum()
    return np.asarray(np.log(p / p.sum() + 1e-8) - np.log(q + 1e-8))


def log_weights(buckets: np.ndarray, text: np.ndarray, ratio: np.ndarray, texts: int) -> np.ndarray:
    """[texts] w of each text; it adds over n-grams."""
    return np.bincount(text, weights=ratio[buckets], minlength=texts)


def gumbel(key: str) -> float:
    """Standard Gumbel noise, the same for the same key."""
    return -math.log(-math.log(drawn(key) or 5e-324))


class DSIR(Method):
    """Importance resampling towards a target set."""

    keep: Amount = Field(
        0.1,
        gt=0,
        description="share of the records kept (10%, 0.1), or how many (1000)",
        examples=["25%", 3],
    )
    ngrams: PositiveInt = Field(2, description="longest run of words that is counted")
    buckets: PositiveInt = Field(10_000, description="number of buckets that n-grams are hashed into")
    smoothing: NonNegativeFloat = Field(0.0, description="added to the target's count of every bucket")
    shortest: NonNegativeInt = Field(0, description="words below which a record is never kept", examples=[3])
    noise: bool = Field(True, description="draw with Gumbel noise; off: the k largest weights")

    papers: ClassVar[tuple[str, ...]] = ("dsir",)

    def _counted(self, records: Iterable[Record], what: str, grams: Grams, seen: _Words) -> np.ndarray:
        """[buckets] counts over all records, whose words are shown to `seen`."""
        total = np.zeros(self.buckets)
        for _, texts in in_batches(records):
            total += np.bincount(grams.of(texts)[0], minlength=self.buckets)
            seen.see(texts)
        if not total.any():
            raise DataError(
                f"the {what} hold no words", remedy="dsir reads text: give rows with text, prompt or messages"
            )
        return total

    def select(self, records: Sequence[Record], target: Sequence[Record], rng: random.Random) -> Selected:
        grams = Grams(self.ngrams, self.buckets)
        words = _Words()
        like = self._counted(target, "target's records", grams, words)
        raw = self._counted(records, "records to choose from", grams, words.to_find())
        if not words.found:
            raise DataError(
                "the target's records and those to choose from have nothing in common: not one word",
                remedy="give a target in the language and the shape of the rows",
            )
        ratio = log_ratio(like, raw, self.smoothing)
        k, salt = how_many(self.keep, len(records)), rng.getrandbits(63)

        weights, short = array("d"), set[int]()

        def scored() -> Iterable[tuple[float, int]]:
            for some, texts in in_batches(records):
                buckets, text, words = grams.of(texts)
                for r, w, n in zip(some, log_weights(buckets, text, ratio, len(some)), words, strict=True):
                    i = len(weights)
                    weights.append(w)
                    if n < self.shortest:
                        short.add(i)
                    else:
                        yield w + (gumbel(f"{salt}/{r.source}/{r.id}") if self.noise else 0.0), i

        kept = sorted(i for _, i in heapq.nlargest(k, scored()))
        inside, against = set(kept), "not drawn" if self.noise else "weight below those kept"
        reasons = [
            "" if i in inside else f"fewer than {self.shortest} words" if i in short else against
            for i in range(len(weights))
        ]
        return Selected(kept, scores={"weight": weights}, reasons=reasons)
