"""How much a selector keeps: a share or a number of the records, and which stand first by a score."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any


def share(value: Any) -> Any:
    """ "10%" as 0.1; anything else as it is."""
    return float(value[:-1]) / 100 if isinstance(value, str) and value.endswith("%") else value


def how_many(keep: float, n: int) -> int:
    """Records that `keep` leaves of n: a share of them below 1, else a number; at least one and at most all."""
    return min(n, max(1, round(keep * n) if keep < 1 else int(keep)))


def smallest(scores: Sequence[float], k: int) -> list[int]:
    """Indices of the k smallest scores, smallest first; of equal ones those that stand first."""
    return sorted(range(len(scores)), key=lambda i: (scores[i], i))[:k]


def drawn(key: str) -> float:
    """A uniform draw in [0, 1), the same for the same key: 53 bits of its BLAKE2b hash."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / (1 << 53)
