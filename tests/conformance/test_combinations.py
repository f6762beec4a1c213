"""Random combinations of the methods there are: valid ones train, resume and repeat bit for bit; others are refused."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunewright.catalogue import entries
from tunewright.conformance.bench import Tiny, task_of
from tunewright.conformance.case import Case
from tunewright.conformance.declared import fills_training_slots
from tunewright.contract.combining import bind, check_conflicts
from tunewright.contract.slot import SLOTS
from tunewright.errors import MethodError
from tunewright.models.agreement import differing

CASES = [
    c for c in (Case.of(n) for n in entries()) if fills_training_slots(c) and task_of(c.method) == "text-generation"
]
ALONE = [c for c in CASES if len(c.named) == 1]
ONE = [s.name for s in SLOTS.values() if s.several == "one"]


def clash(cases) -> tuple[str, str, str] | None:
    """(slot, two names) of the first slot that takes one method and has two."""
    for slot in ONE:
        filling = [c.name for c in cases if slot in c.slots]
        if len(filling) > 1:
            return slot, filling[0], filling[1]
    return None


def valid(cases) -> bool:
    """No slot that takes one has two, and nothing needs weights that another holds in 4 bits."""
    return clash(cases) is None and not (
        any(c.method.quantises for c in cases) and any(not c.method.quantised for c in cases)
    )


def named(cases):
    return [(c.name, c.method) for c in cases]


some = st.lists(st.sampled_from(ALONE), min_size=1, max_size=4, unique_by=lambda c: c.name)


@pytest.mark.slow
@settings(max_examples=8, deadline=None, derandomize=True)
@given(some.filter(valid), st.integers(1, 2))
def test_valid_combinations_resume_and_repeat_bit_for_bit(cases, stopped):
    try:
        whole = Tiny(named(cases), steps=3, keep=(stopped,)).run()
    except MethodError as refusal:  # two optimizers of one group, say: known when they meet, and told with a remedy
        assert refusal.remedy
        return
    again = whole.resumed(whole.saved[stopped])
    assert not differing(whole.tensors(), again.tensors())
    assert whole.loop.state()[0]["methods"] == again.loop.state()[0]["methods"]
    assert whole.records[stopped:] == again.records
    repeated = Tiny(named(cases), steps=3).run()
    assert not differing(whole.tensors(), repeated.tensors()) and whole.records == repeated.records


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.lists(st.sampled_from(ALONE), min_size=2, max_size=4, unique_by=lambda c: c.name),
    st.randoms(use_true_random=False),
)
def test_methods_keep_the_recipes_order_on_every_slot_and_their_draws_whatever_it_is(cases, rng):
    shuffled = rng.sample(cases, len(cases))
    a, b = bind(named(cases), 0, "s"), bind(named(shuffled), 0, "s")
    for slot in SLOTS:
        assert [x.name for x in b.on(slot)] == [c.name for c in shuffled if slot in c.slots]
    draws = {x.name: x.state.rng.random() for x in a}
    assert draws == {x.name: x.state.rng.random() for x in b} and len(set(draws.values())) == len(draws)


@pytest.mark.parametrize(
    "pair", [p for p in combinations(CASES, 2) if clash(p)], ids=lambda p: f"{p[0].name} and {p[1].name}"
)
def test_two_on_a_slot_that_takes_one_are_refused_by_name_before_anything_is_made(pair):
    slot, first, second = clash(pair)
    with pytest.raises(MethodError, match=f"'{first}' and '{second}'.*'{slot}'") as refusal:
        check_conflicts(named(pair), stage="main")
    assert "stages:" in str(refusal.value), "it shows how to stage them"
