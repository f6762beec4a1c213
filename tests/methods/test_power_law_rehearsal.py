"""Power-law rehearsal: kept rows of earlier stages join each step, drawn by a power of their stage's age."""

from __future__ import annotations

import json
import random
from types import SimpleNamespace

import pytest

from tests.methods.rehearsing import TASKS, ByHand, trained
from tunewright.conformance.bench import Tiny
from tunewright.contract.batch import Row
from tunewright.contract.left import Earlier, left_of
from tunewright.methods.continual.power_law_rehearsal import PowerLawRehearsal

NAMES = ("first", "second", "third", "now")


class Step:
    """What the slot `step` is given: the step's rows, and a note of those that joined them."""

    def __init__(self, rows):
        self.rows, self.joined = rows, []

    def gradients(self, also=()):
        self.joined += [row.source for row in also]


def at_the_fourth_stage(method: PowerLawRehearsal, a_stage: int = 5):
    """The state that `method` has when its fourth stage begins: rows of three stages, whose source is the stage."""
    left = Earlier()
    for i, name in enumerate(NAMES):
        run = SimpleNamespace(rng=random.Random(i), plan=SimpleNamespace(stage=name), earlier=left)
        state = method.setup(run)
        if name == NAMES[-1]:
            return state
        method.step(Step([Row(f"{name}:{k}", name, [7], [1.0]) for k in range(a_stage)]), 0, state)
        one = left_of(name, "power-law-rehearsal", method.leaves, state, json.loads(json.dumps(state.data)))
        left = Earlier((*left, one))


@pytest.mark.parametrize("exponent", [0.0, 1.0, 3.0])
def test_a_stage_comes_back_as_a_power_of_its_age(exponent):
    """Over 3,000 steps of one drawn row each: 1, 2^-a and 3^-a of the last stage, the one before and the first, to
    within four standard deviations (0.036).
    """
    method, steps = PowerLawRehearsal(buffer_size=15, minibatch_size=1, exponent=exponent), 3000
    state, step = at_the_fourth_stage(method), Step([])
    for i in range(steps):
        method.step(step, i, state)
    wanted = {"third": 1.0, "second": 1 / 2**exponent, "first": 1 / 3**exponent}
    for name, weight in wanted.items():
        assert step.joined.count(name) / steps == pytest.approx(weight / sum(wanted.values()), abs=0.036)


def test_no_row_comes_twice_in_a_step_and_the_present_stages_never():
    method = PowerLawRehearsal(buffer_size=50, exponent=6.0, minibatch_size=12)
    state = at_the_fourth_stage(method)
    for i in range(2):  # in the second step, the first one's rows are kept
        step = Step([Row(f"now:{i}{k}", "now", [7], [1.0]) for k in range(3)])
        method.step(step, i, state)
        assert sorted(step.joined) == ["first"] * 2 + ["second"] * 5 + ["third"] * 5
    assert [of for of, _ in state.data["memory"]["slots"]].count("now") == 6
    all_of_them = Step([])
    method.model_copy(update={"minibatch_size": 40}).step(all_of_them, 2, state)
    assert len(all_of_them.joined) == 15


def test_a_first_stage_is_plain_descent():
    run, hand = trained({"power-law-rehearsal": PowerLawRehearsal()}, TASKS[0]), ByHand(TASKS[0])
    for rows in hand.batches:
        hand.step(hand.gradient(hand.loss(rows)))
    hand.check(run)


def test_rows_that_are_drawn_are_trained_on_in_the_loop():
    t = Tiny([("power-law-rehearsal", PowerLawRehearsal(buffer_size=6))], steps=1)
    state = t.loop.methods.one("step").state
    assert state.data["stages"] == ["earlier1", "earlier2", "main"]
    assert t.loop.one_step()["joined_rows"] == 2  # the step's own rows are two
    plain = Tiny([("power-law-rehearsal", PowerLawRehearsal(buffer_size=6, minibatch_size=1))], steps=1)
    assert plain.loop.one_step()["joined_rows"] == 1
