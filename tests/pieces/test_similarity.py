"""Losses of text vectors against sums written out, and what texts that say the same count."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tunewright.pieces.similarity import cosent, cosines, in_batch_negatives, squared_error


def by_hand(vectors: list[list[float]], texts: list[list[int]], scale: float) -> list[float]:
    """Each row's loss, from the rows' texts as keys: a loop over rows and over what each may not be compared with."""
    owner = [r for r, keys in enumerate(texts) for _ in keys]
    place = [k for keys in texts for k in range(len(keys))]
    key = [k for keys in texts for k in keys]
    start = [sum(len(t) for t in texts[:r]) for r in range(len(texts))]

    def cos(a: int, b: int) -> float:
        u, v = vectors[a], vectors[b]
        return sum(x * y for x, y in zip(u, v, strict=True)) / math.hypot(*u) / math.hypot(*v)

    out = []
    for r, (anchor, positive) in enumerate((s, s + 1) for s in start):
        total = math.exp(scale * cos(anchor, positive))
        for d in range(len(key)):
            if place[d] == 0 or d == positive:
                continue
            own_negative = owner[d] == r and place[d] > 1
            says_the_same = key[d] in (key[anchor], key[positive])
            also_right = place[d] == 1 and texts[owner[d]][0] == key[anchor]
            if own_negative or not (says_the_same or also_right):
                total += math.exp(scale * cos(anchor, d))
        out.append(-math.log(math.exp(scale * cos(anchor, positive)) / total))
    return out


@st.composite
def batches(draw: Any) -> tuple[list[list[int]], int]:
    rows = draw(st.lists(st.lists(st.integers(0, 5), min_size=2, max_size=4), min_size=1, max_size=5))
    return rows, draw(st.integers(0, 1000))


@settings(max_examples=60, deadline=None)
@given(batches())
def test_in_batch_negatives_are_the_sum_written_out(batch: tuple[list[list[int]], int]) -> None:
    texts, seed = batch
    count = sum(map(len, texts))
    vectors = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed)) + 0.1
    counts, keys = torch.tensor([len(t) for t in texts]), torch.tensor([k for t in texts for k in t])
    value = in_batch_negatives(vectors, counts, keys, torch.arange(len(texts)), 3.0)
    assert value.tolist() == pytest.approx(by_hand(vectors.tolist(), texts, 3.0), abs=1e-4)


def test_texts_that_say_the_same_are_not_each_others_negatives() -> None:
    vectors = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    counts, rows = torch.tensor([2, 2, 2]), torch.arange(3)
    apart = in_batch_negatives(vectors, counts, torch.tensor([0, 1, 2, 3, 4, 5]), rows)
    one_label = in_batch_negatives(vectors, counts, torch.tensor([0, 9, 2, 9, 4, 9]), rows)
    assert bool((one_label == 0).all()) and bool((apart > 0).all())
    one_anchor = in_batch_negatives(vectors, counts, torch.tensor([7, 1, 7, 3, 4, 5]), rows)
    alone = in_batch_negatives(vectors[[0, 1, 4, 5]], counts[:2], torch.tensor([7, 1, 4, 5]), rows[:2])
    assert one_anchor[0].item() == pytest.approx(alone[0].item(), abs=1e-5)  # another answer to it is none


def test_a_hard_negative_counts_for_its_row_and_for_others() -> None:
    vectors = torch.tensor([[1.0, 0], [0.9, 0.1], [0.8, 0.6], [0, 1.0], [0.1, 0.9]])
    value = in_batch_negatives(vectors, torch.tensor([3, 2]), torch.arange(5), torch.arange(2), 5.0)
    without = in_batch_negatives(vectors[[0, 1, 3, 4]], torch.tensor([2, 2]), torch.arange(4), torch.arange(2), 5.0)
    assert bool((value > without).all())


def test_rows_with_a_score_are_no_negatives() -> None:
    vectors = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    some = in_batch_negatives(vectors, torch.tensor([2, 2, 2]), torch.arange(6), torch.tensor([0, 2]))
    alone = in_batch_negatives(vectors[[0, 1, 4, 5]], torch.tensor([2, 2]), torch.arange(4), torch.arange(2))
    assert some.tolist() == pytest.approx(alone.tolist())


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.floats(-1, 1)), min_size=1, max_size=6))
def test_cosents_rows_have_its_mean_and_its_gradient(rows: list[tuple[int, float]]) -> None:
    scores = torch.tensor([float(s) for s, _ in rows])
    said = torch.tensor([c for _, c in rows], requires_grad=True)
    pairs = [(i, j) for i in range(len(rows)) for j in range(len(rows)) if rows[i][0] > rows[j][0]]
    whole = torch.log(1 + sum((torch.exp(20.0 * (said[j] - said[i])) for i, j in pairs), torch.tensor(0.0)))
    value = cosent(said, scores)
    assert value.mean().item() == pytest.approx(whole.item(), rel=1e-4, abs=1e-5)
    if pairs:
        (wanted,) = torch.autograd.grad(whole, said, allow_unused=True)
        (gradient,) = torch.autograd.grad(value.mean(), said)
        torch.testing.assert_close(gradient, wanted, rtol=1e-3, atol=1e-4)


def test_cosines_are_of_a_rows_first_two_texts() -> None:
    vectors = torch.tensor([[1.0, 0], [3, 4], [0, 2], [0, 7]])
    assert cosines(vectors, torch.tensor([2, 2]), torch.arange(2)).tolist() == pytest.approx([0.6, 1.0])
    assert squared_error(torch.tensor([0.5]), torch.tensor([0.9])).tolist() == pytest.approx([0.16])
