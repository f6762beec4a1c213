"""Every architecture does what its row in docs/architectures.md says."""

from __future__ import annotations

import pytest

from tests import architecture_matrix as matrix

ROWS = matrix.written()


@pytest.mark.parametrize("task, name", matrix.SUBSET)
def test_an_architecture_of_each_kind_does_what_its_row_says(task, name):
    assert matrix.row(task, name) == ROWS[task, name]


@pytest.mark.slow
@pytest.mark.parametrize("task, name", [p for p in matrix.pairs() if p not in matrix.SUBSET])
def test_every_architecture_does_what_its_row_says(task, name):
    assert matrix.row(task, name) == ROWS[task, name]


def test_the_page_has_a_row_for_each_pair_and_nothing_else_by_hand():
    assert set(ROWS) == set(matrix.pairs())
    said = matrix.PAGE.read_text(encoding="utf-8")
    assert matrix.page(ROWS).splitlines()[-len(ROWS) :] == said.splitlines()[-len(ROWS) :] and matrix.HEAD in said


def test_a_difference_is_seen():
    import torch

    logits = torch.randn(4, 8)
    assert matrix.differs(logits, logits + 1e-6) is None and matrix.differs(logits, logits + 0.1)
