"""Sentences about data that a run takes and that make its figures say less.

A check gives them with its verdict, a run on every page.
"""

from __future__ import annotations

from tunewright.data.dataset import Dataset
from tunewright.data.facts import matched


def left_out(dataset: Dataset) -> list[str]:
    """That more than half of a source's rows are longer than max_length and left out."""
    counts = dataset.counts
    if 2 * counts["left_out"] <= counts["read"]:
        return []
    share = f"{counts['left_out']:,} of {counts['read']:,} rows of {dataset.name}"
    return [f"{share} are longer than max_length and left out: raise data.max_length, or write truncation: split"]


def trained_on(role: str, count: int, rows: int) -> list[str]:
    """That rows which are measured on are trained on, where `count` of `rows` are."""
    if not count:
        return []
    if count >= rows:
        return [f"every {role} row is trained on: its score says nothing of new rows"]
    return [f"{count:,} of {rows:,} {role} rows are trained on: their score says nothing of new rows"]


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
        out += left_out(part)
    return out
