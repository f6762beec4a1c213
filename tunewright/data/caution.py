"""Sentences about data that a run takes and that make its figures say less.

A check gives them with its verdict, a run on every page.
"""

from __future__ import annotations

from collections.abc import Sequence

from tunewright.data.dataset import Dataset, shares_of, weighed
from tunewright.data.facts import LABEL, OTHER, SAME, matched


def left_out(dataset: Dataset) -> list[str]:
    """That more than half of a source's rows are longer than max_length and left out."""
    counts = dataset.counts
    if 2 * counts["left_out"] <= counts["read"]:
        return []
    share = f"{counts['left_out']:,} of {counts['read']:,} rows of {dataset.name}"
    return [f"{share} are longer than max_length and left out: raise data.max_length, or write truncation: split"]


def unusable(dataset: Dataset) -> list[str]:
    """That some of a source's rows cannot be used and are left out, as the recipe asks; of a streamed source, of its
    first ones.
    """
    if not dataset.problems:
        return []
    share = f"{len(dataset.problems):,} of {dataset.counts['read']:,} rows of {dataset.name}"
    first = dataset.problems[0]
    return [
        f"{share} cannot be used and are left out (bad_rows: skip), such as {first.where}: {first.field}: "
        f"{first.reason}"
    ]


def equal_pairs(dataset: Dataset) -> list[str]:
    """That some of a source's pairs prefer an answer to itself."""
    count = len(dataset.facts.flagged(SAME)) if dataset.facts is not None else 0
    if not count:
        return []
    many = f"{count:,} of {dataset.counts['read']:,} rows of {dataset.name}"
    return [f"in {many} the chosen answer is the rejected one: nothing is learnt or measured by them"]


def all_alike(parts: Sequence[Dataset]) -> list[str]:
    """That all training rows have one label or score, where they are of one source."""
    facts = parts[0].facts if len(parts) == 1 else None
    if facts is None or sum(facts.shapes.values()) < 2:
        return []
    if any(((part["flags"] & LABEL == 0) | (part["flags"] & OTHER > 0)).any() for part in facts.parts()):
        return []
    return [f"all rows of {parts[0].name} have the same label or score: nothing else is learnt than to say it"]


def remarked(dataset: Dataset) -> list[str]:
    """What of a source's files is not read and could be missed."""
    return [f"{dataset.name}: {text}" for text in dataset.remarks]


def trained_on(role: str, count: int, rows: int) -> list[str]:
    """That rows which are measured on are trained on, where `count` of `rows` are."""
    if not count:
        return []
    if count >= rows:
        return [f"every {role} row is trained on: its score says nothing of new rows"]
    return [f"{count:,} of {rows:,} {role} rows are trained on: their score says nothing of new rows"]


OFTEN = 2.0
"""Passes over a source in one over all rows, from which they are said."""


def repeated(parts: Sequence[Dataset]) -> list[str]:
    """That sources are gone through more often than once an epoch, where their weights ask for it.

    An epoch is over when as many rows were given as there are: a small source with a large weight fills it again and
    again, and a large one is not gone through.
    """
    rows, tokens = ({p.name: p.counts[key] for p in parts} for key in ("rows", "tokens"))
    if any(p.stream for p in parts):  # nobody knows how long an epoch is
        return []
    if not weighed(parts) or not all(rows.values()) or not all(tokens.values()):
        return []
    shares = shares_of(parts)
    total = sum(rows.values()) / sum(shares[n] * rows[n] / tokens[n] for n in rows)  # tokens of an epoch
    passes = {n: shares[n] * total / tokens[n] for n in rows}
    least = min(passes, key=passes.__getitem__)
    return [
        f"by its weight, {n} is gone through {times:.3g} times an epoch, and {least} {passes[least]:.2g} times: write "
        "smaller weights, or none (each row once)"
        for n, times in passes.items()
        if times >= OFTEN
    ]


def of_data(trained: list[Dataset], judged: dict[str, Dataset | None]) -> list[str]:
    """The sentences of a run's data: `judged` are what is measured on, by role."""
    parts = [part for dataset in trained for part in dataset.sources]
    learnt = [part.facts for part in parts if part.facts is not None]
    out = []
    for role, dataset in judged.items():
        if dataset is None:
            continue
        looks = [part.facts for part in dataset.sources if part.facts is not None]
        count = sum(
            1 for look in looks for a, _, first, _ in matched([*learnt, look], "given") if first < a == len(learnt)
        )
        out += trained_on(role, count, len(dataset.rows))
    for part in {part.name: part for part in parts}.values():
        out += [*remarked(part), *unusable(part), *left_out(part), *equal_pairs(part)]
    for dataset in trained:
        out += [t for t in (*all_alike(dataset.sources), *repeated(dataset.sources)) if t not in out]
    return out
