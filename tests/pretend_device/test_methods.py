"""Every method's conformance case on the pretended device: the numbers of the CPU, and everything where it belongs."""

from __future__ import annotations

import pytest

from tests.pretend_device import REAL
from tunewright.catalogue import entries
from tunewright.conformance.adapting import Tried, benches
from tunewright.conformance.bench import Tiny, task_of
from tunewright.conformance.case import Case
from tunewright.conformance.declared import fills_training_slots
from tunewright.conformance.fields import other_values
from tunewright.conformance.reading import Reads, reads_with_a_model
from tunewright.models.agreement import differing

CASES = [c for c in (Case.of(n) for n in entries()) if fills_training_slots(c) and task_of(c.method)]

STREAMS = [c for c in (Case.of(n) for n in entries()) if "adapt" in c.slots]

SELECTORS = [c for c in (Case.of(n) for n in entries()) if reads_with_a_model(c)]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_trains_resumes_and_folds(cuda, case):
    t = Tiny(case.named, steps=2, device=cuda, micro_tokens=16, keep=(1,)).run()
    state, tensors = t.loop.state()
    parked = {n for n in tensors["optimizer"] if n.partition("|")[0] not in t.loop.trained.leaves}
    away = [f"{f}/{n}" for f, ts in tensors.items() if f != "random" for n, x in ts.items() if not x.is_cuda]
    assert {n.removeprefix("optimizer/") for n in away} <= parked
    again = t.resumed(t.saved[1])
    assert not differing(t.tensors(), again.tensors()) and again.loop.state()[0]["methods"] == state["methods"]
    tuned = t.logits()
    with t.adapted.base() as model:
        assert t.logits(model).is_cuda
    if case.method.folds:
        with t.adapted.at_strength(0.5) as model:
            assert t.logits(model).is_cuda
        t.adapted.fold()
        assert t.logits(t.adapted.model).is_cuda and tuned.is_cuda
    assert REAL or t.records == Tiny(case.named, steps=2, micro_tokens=16).run().records, "the CPU logs other numbers"


@pytest.mark.parametrize("case", SELECTORS, ids=lambda c: c.name)
def test_selects_as_on_the_cpu(cuda, case):
    there, here = Reads(case.method, device=cuda).selected(case.method), Reads(case.method).selected(case.method)
    assert REAL or (there.scores, there.indices) == (here.scores, here.indices)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_with_other_values_of_every_field(cuda, case):
    for field in type(case.method).model_fields:
        for other in other_values(case.method, field):
            t = Tiny(case.replace(other).named, steps=2, device=cuda, micro_tokens=16, keep=(1,)).run()
            assert not differing(t.tensors(), t.resumed(t.saved[1]).tensors()), field


@pytest.mark.slow
@pytest.mark.parametrize("case", STREAMS, ids=lambda c: c.name)
def test_adapts_and_goes_on_as_on_the_cpu(cuda, case):
    for task, make in benches(case.method):
        kept = {}
        there = Tried(case.method, task, make, device=cuda).run(kept)
        assert all(answer.is_cuda for answer in there.answers)
        again = Tried(case.method, task, make, device=cuda)
        with again.stream as stream:
            stream.resume(*kept[0])
            given = [stream.answer(some) for some in again.batches[1:]]
        assert not differing(dict(enumerate(given)), dict(enumerate(there.answers[1:])))
        here = Tried(case.method, task, make).run()
        assert REAL or [a.tolist() for a in there.answers] == [a.tolist() for a in here.answers]
