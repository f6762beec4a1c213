"""Rows that hold several texts, each read by itself: their texts, and what makes two of them one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from tunewright.contract.batch import Row
from tunewright.contract.records import Record, RowProblem


def cut_at(values: Sequence[int], lengths: Sequence[int]) -> list[Sequence[int]]:
    """What lies end to end, a piece for each length."""
    out, start = list[Sequence[int]](), 0
    for length in lengths:
        out.append(values[start : start + length])
        start += length
    return out


def texts_of(row: Row) -> list[Sequence[int]]:
    """The token ids of each of a row's texts."""
    return cut_at(row.input_ids, row.fields["lengths"])


def key_of(text: str) -> int:
    """A number of 63 bits that is equal for texts that say the same, blind to case and to spaces."""
    plain = " ".join(text.casefold().split()).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(plain, digest_size=8).digest()) >> 1


def asked_by(record: Record) -> str:
    """The column of what is asked: `anchor`, else `query`."""
    return "anchor" if "anchor" in record else "query"


def text_in(record: Record, column: str) -> str:
    """The text of a column. RowProblem where there is none."""
    return checked(record.get(column), column)


def checked(value: Any, column: str) -> str:
    """A value that is a text. RowProblem naming the column for any other."""
    if isinstance(value, str) and value.strip():
        return value
    what = "it is empty" if isinstance(value, str) else "it is missing" if value is None else "it is no text"
    raise RowProblem(column, what, "write it as text")


def positive_and_negatives(record: Record) -> tuple[str, list[str]]:
    """The positive and the hard negatives of a record; an empty cell of a table is none. RowProblem where a negative is
    the positive once more.
    """
    negatives = record.get("negatives") or []
    if not isinstance(negatives, list):
        raise RowProblem("negatives", "it is no list of texts", 'write ["a text", "another one"]')
    more = [checked(text, "negatives") for text in negatives]
    more += [text_in(record, "negative")] if record.get("negative") is not None else []
    positive = text_in(record, "positive")
    if key_of(positive) in map(key_of, more):
        raise RowProblem("negative", "it is the row's positive once more", "take it out, or the row")
    return positive, more
