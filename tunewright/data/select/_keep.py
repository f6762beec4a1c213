"""How much a selector keeps: a share or a number of the records, and which stand first by a score."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

from tunewright.contract.records import Record


def share(value: Any) -> Any:
    """ "10%" as 0.1; anything else as it is. ValueError for more than all."""
    if not isinstance(value, str) or not value.strip().endswith("%"):
        return value
    found = float(value.strip()[:-1]) / 100
    if found > 1:
        raise ValueError("more than all: a share is 100 % at most")
    return found


def _plain(value: float) -> float:
    """A share as a float up to 1, a number as a whole one. ValueError for what is neither."""
    if isinstance(value, int) or value <= 1:
        return value
    if value != int(value):
        raise ValueError("neither a share (100 % at most) nor a whole number of records")
    return int(value)


Amount = Annotated[int | float, BeforeValidator(share), AfterValidator(_plain)]
"""How much is kept: a share as "10%" or a number with a point up to 1.0, which is all; or a whole number of records."""


def how_many(keep: float, n: int) -> int:
    """Records that `keep` leaves of n: a share of them where it is no whole number, else as many; at least one and at
    most all.
    """
    return min(n, max(1, keep if isinstance(keep, int) else round(keep * n)))


def at_most(target: Sequence[Record], most: int, rng: random.Random) -> list[Record]:
    """The target's records, or of more than `most` as many drawn, in their order."""
    if len(target) <= most:
        return list(target)
    return [target[i] for i in sorted(rng.sample(range(len(target)), most))]


def smallest(scores: Sequence[float], k: int) -> list[int]:
    """Indices of the k smallest scores, smallest first; of equal ones those that stand first."""
    return sorted(range(len(scores)), key=lambda i: (scores[i], i))[:k]


def below(what: str, score: float, least: float, unit: str = "") -> str:
    """Why a row is left out whose score is no higher than the least that was kept: it is lower, or equal and later."""
    if score == least:
        return f"{what} {least:.4g}{unit}, as of rows that stand before it: the number to keep was reached"
    return f"{what} below {least:.4g}{unit}"


def drawn(key: str) -> float:
    """A uniform draw in [0, 1), the same for the same key: 53 bits of its BLAKE2b hash."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / (1 << 53)
