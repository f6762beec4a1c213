"""Rows for encoders: texts to be filled in, and texts with one of three labels."""

from __future__ import annotations

from tests import tiny
from tests.methods.driving import text_rows
from tunewright.contract.batch import Row


def mask_rows(count: int = 24) -> list[Row]:
    """Rows of random tokens of which some are to be guessed."""
    fields = {"kind": "mask", "mask_id": tiny.MASK, "vocabulary": tiny.VOCABULARY}
    return [r.replace(fields=fields) for r in text_rows(count)]


def class_rows(count: int = 24) -> list[Row]:
    """Rows of random tokens with labels 0, 1 and 2 in turn."""
    return [r.replace(label=i % 3, weights=[1.0]) for i, r in enumerate(text_rows(count))]
