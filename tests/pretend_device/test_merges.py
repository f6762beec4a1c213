"""Merges, edits and what merges learn from, on tensors and models of the pretended device: the numbers of the CPU."""

from __future__ import annotations

import pytest

from tests.pretend_device import REAL
from tunewright.catalogue import entries
from tunewright.conformance import learned, weights
from tunewright.conformance.case import Case
from tunewright.models.agreement import differing

CASES = [Case.of(n) for n in entries()]
LEARNED = [
    Case.of("regmean", samples=4),
    Case.of("atlas", samples=4, epochs=1),
    Case.of("atlas", samples=4, epochs=1, parts=3),
    Case.of("pleas", samples=4, match="activations", budget=0.5),
    Case.of("pleas", samples=4, bases="different"),
]
PLAIN = [c for c in CASES if {"merge", "edit"} & set(c.slots) and not learned.learns(c)]


@pytest.mark.parametrize("case", PLAIN, ids=lambda c: c.name)
def test_of_tensors(cuda, case):
    on, off = weights.apply(case.method, device=cuda), weights.apply(case.method)
    assert all(t.is_cuda for t in on.values()) and (REAL or not differing(on, off))


def test_every_merge_that_learns_is_here():
    assert {c.name for c in LEARNED} == {c.name for c in CASES if learned.learns(c)}


@pytest.mark.parametrize("case", LEARNED, ids=lambda c: c.name)
def test_learned_from_rows(cuda, case):
    (on, config), (off, known) = learned.apply(case.method, device=cuda), learned.apply(case.method)
    assert all(t.is_cuda for t in on.values()) and config == known
    assert REAL or not differing(on, off)
