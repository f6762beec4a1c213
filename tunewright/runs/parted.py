"""A part of what is measured: which rows, documents and sequences strengths between base and tuned are read on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """Which rows, kept documents (by name) and drift sequences a reading is of, by their places among all of them."""

    rows: list[int]
    kept: dict[str, list[int]]
    drift: list[int]


def spread(n: int, most: int) -> list[int]:
    """At most `most` of the places below n, evenly over all of them."""
    few = min(n, most)
    return [i * n // few for i in range(few)]
