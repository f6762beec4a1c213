"""The words of texts as numbers, many texts at once: what counts and compares words at the speed of arrays.

A character is of a word (`\\w`), white space, or neither; which one Python's `re` says, once for each character that is
met. A token is a run of characters of one kind, white space apart, and is known by a key of 64 bits: the polynomial of
its characters at an odd base, from differences of prefix sums (the base has an inverse modulo 2^64).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

SPACE, WORD, OTHER, UNSEEN = 0, 1, 2, 255
BASE = 0x9E3779B97F4A7C15
FACTOR = np.uint64(0xD6E8FEB86659FD93)
SPREAD = np.uint64(0xC2B2AE3D27D4EB4F)
"""What brings all of a key into its high bits: the low ones of a short word's are all it has."""
_kinds = np.full(0x110000, UNSEEN, np.uint8)
_powers = np.ones((2, 1), np.uint64)


def _kind(code: int) -> int:
    letter = chr(code)
    return WORD if re.match(r"\w", letter) else SPACE if re.match(r"\s", letter) else OTHER


def codes_of(text: str) -> np.ndarray:
    """The characters of a text as numbers."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def kinds_of(codes: np.ndarray) -> np.ndarray:
    """The kind of each character."""
    kinds = _kinds[codes]
    if (kinds == UNSEEN).any():
        for code in np.unique(codes[kinds == UNSEEN]).tolist():
            _kinds[code] = _kind(code)
        kinds = _kinds[codes]
    return np.asarray(kinds)


def _powers_to(n: int) -> np.ndarray:
    """[2, n or more]: the base to the power of each place, and the inverse of these."""
    global _powers
    if _powers.shape[1] < n:
        size = 1 << (n - 1).bit_length()
        steps = np.full((2, size), [[BASE], [pow(BASE, -1, 1 << 64)]], np.uint64)
        steps[:, 0] = 1
        _powers = np.multiply.accumulate(steps, axis=1)
    return _powers


@dataclass(frozen=True)
class Tokens:
    """The tokens of some texts, in order: [G] `keys`, the characters [`starts`, `ends`) of `joined` that each is, and
    in which `text` each stands. `bounds`: where each text ends in `joined`, the sign behind it taken in.
    """

    joined: str
    keys: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    text: np.ndarray
    bounds: np.ndarray

    def runs(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """([R] keys of the runs of n neighbouring tokens inside a text, [R] the token that each begins with)."""
        keys = self.keys
        for size in range(2, n + 1):
            keys = keys[:-1] * FACTOR + self.keys[size - 1 :]
        if len(self.keys) < n:
            return keys[:0], np.zeros(0, np.int64)
        starts = np.flatnonzero(self.text[: len(keys)] == self.text[n - 1 :])
        return keys[starts] + np.uint64(n), starts

    def said(self, first: np.ndarray, n: int) -> Iterator[str]:
        """The runs of n tokens that begin with some, as texts with a space between tokens."""
        each = [
            map(self.joined.__getitem__, map(slice, self.starts[first + k].tolist(), self.ends[first + k].tolist()))
            for k in range(n)
        ]
        return each[0] if n == 1 else map(" ".join, zip(*each, strict=True))


def tokens(texts: Sequence[str], punctuation: bool = True) -> Tokens:
    """The lower-cased tokens of texts; without `punctuation` words alone, between which anything may stand."""
    low = [text.lower() for text in texts]
    joined = "\n".join(low)
    codes = codes_of(joined)
    kinds = kinds_of(codes)
    if not punctuation:
        kinds = np.where(kinds == OTHER, np.uint8(SPACE), kinds)
    begins = np.flatnonzero(np.concatenate([[True], kinds[1:] != kinds[:-1]])) if len(codes) else np.zeros(0, np.int64)
    ends = np.append(begins[1:], len(codes))
    told = kinds[begins] != SPACE
    starts, ends = begins[told], ends[told]
    powers, inverses = _powers_to(len(codes) + 1)
    sums = np.cumsum((codes.astype(np.uint64) + np.uint64(1)) * powers[: len(codes)], dtype=np.uint64)
    sums = np.concatenate([np.zeros(1, np.uint64), sums])
    keys = (sums[ends] - sums[starts]) * inverses[starts]
    lengths = np.fromiter(map(len, low), np.int64, len(low)) + 1
    bounds = np.cumsum(lengths)
    return Tokens(joined, keys, starts, ends, np.searchsorted(bounds, starts, side="right"), bounds)


def hashed(texts: Sequence[str], n: int, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """([G] buckets below 2^bits of all runs of 1 to n lower-cased words and signs, [G] which text each stands in)."""
    held = tokens(texts)
    found, where = [], []
    for size in range(1, n + 1):
        keys, starts = held.runs(size)
        found.append(((keys * SPREAD) >> np.uint64(64 - bits)).astype(np.int64))
        where.append(held.text[starts])
    return np.concatenate(found), np.concatenate(where)
