"""What becomes of rows longer than `max_length`: dropped, split, or a failure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from tunewright.contract.batch import Row
from tunewright.contract.records import RowProblem
from tunewright.tasks._masks import SEGMENTED

PLAIN = ("plain", "mask")
"""Kinds of rows that are text alone, so that pieces of them are rows as good."""

IN_WINDOWS = "question"
"""The kind of rows whose context is in windows already where it is too long."""
CHOICES = "choices"
"""The kind of rows whose choices lie end to end, each a text of its own."""
SEVERAL_TEXTS = ("positive-pair", "scored-pair", "embedded", "ranked-list", "judged-passage", "captioned")
"""Kinds of rows that hold texts each of which is read by itself (`fields["lengths"]`)."""

PICTURED = "pictured"
"""The kind of rows with pictures among their tokens: a piece would hold half of one."""

TWO_TEXTS = "text2text"
"""The kind of rows that hold a source and a target, which are read apart."""


def trained_tokens(row: Row) -> int:
    """How many labels a row gives: tokens but the first with a weight above 0 (with it where tokens have classes of
    their own, `fields["targets"]`), pixels with a class, or 1 for a row with one target.
    """
    if row.fields.get("kind") == SEGMENTED:
        return int((row.fields["targets"] >= 0).sum()) * (row.weights[0] > 0)
    if row.one_target:
        return int(row.weights[0] > 0)
    if "targets" in row.fields:
        return len(row.weights) - row.weights.count(0.0)
    later = row.weights[1:]
    return len(later) - later.count(0.0)


def fit_length(row: Row, max_length: int, policy: Literal["auto", "drop", "split", "fail"]) -> list[Row]:
    """The row, the pieces it is split into, or nothing. Raises RowProblem where the policy is `fail`; `auto` splits
    plain text, takes a question with the windows of its context, and drops what has a question and an answer.

    Pieces overlap by one token, so that each token but the first stays a target exactly once; pieces without a trained
    token are left out. A row with one target keeps its beginning (and its last token); pairs of answers, scored
    ones, sources with their targets and rows whose tokens have classes cannot be split. Of a source and its target the
    longer one counts. Texts that are read by themselves are cut at their ends, but for what the tokenizer puts behind
    them, unless the policy is to drop such rows.
    """
    longest = max(len(row.input_ids), len(row.fields.get("rejected_ids", ())))
    if row.fields.get("kind") == TWO_TEXTS:  # each is read by a part of the model of its own
        source = len(row.fields["prompt_ids"])
        longest = max(source, row.size - source)
    if row.fields.get("kind") == IN_WINDOWS:
        longest = row.fields["whole"]
    if row.fields.get("kind") == CHOICES:
        longest = max(row.fields["lengths"])
    texts = row.fields.get("lengths") if row.fields.get("kind") in SEVERAL_TEXTS else None
    if texts is not None:
        longest = max(texts)
    if longest <= max_length:
        return [row]
    if policy == "fail":
        seen = row.fields.get("picture_tokens")
        raise RowProblem(
            "row",
            f"{longest} tokens{f' ({seen} of them of pictures)' if seen else ''}, and max_length is {max_length}",
            "shorten it, raise data.max_length, or set data.truncation to drop or split",
        )
    if texts is not None:
        return [] if policy == "drop" else [_cut(row, texts, max_length)]
    if policy == "auto":
        policy = "split" if row.fields.get("kind") in (*PLAIN, IN_WINDOWS) else "drop"
    if row.fields.get("kind") == CHOICES:
        return []  # cut pairs would say something else
    if row.fields.get("kind") == IN_WINDOWS:
        return [replace(row)] if policy == "split" else []
    if (
        policy == "drop"
        or row.fields.get("kind") in (TWO_TEXTS, PICTURED)
        or row.fields.keys() & {"rejected_ids", "scores", "targets"}
    ):
        return []
    if row.one_target:
        return [replace(row, input_ids=[*row.input_ids[: max_length - 1], row.input_ids[-1]])]
    fields = {k: v for k, v in row.fields.items() if k not in ("prompt_ids", "reference")}
    pieces = []
    for k, start in enumerate(range(0, len(row.input_ids) - 1, max_length - 1)):
        end = start + max_length
        piece = replace(
            row, id=f"{row.id}#{k}", input_ids=row.input_ids[start:end], weights=row.weights[start:end], fields=fields
        )
        if trained_tokens(piece):
            pieces.append(piece)
    return pieces


def _cut(row: Row, lengths: Sequence[int], most: int) -> Row:
    """Each of the row's texts with `most` tokens at most."""
    places, start, tail = list[int](), 0, int(row.fields["tail"])
    for length in lengths:
        kept = range(length) if length <= most else [*range(most - tail), *range(length - tail, length)]
        places += [start + place for place in kept]
        start += length
    fields = {**row.fields, "lengths": [min(n, most) for n in lengths]}
    if "types" in fields:
        fields["types"] = [fields["types"][place] for place in places]
    return replace(row, input_ids=[row.input_ids[place] for place in places], fields=fields)
