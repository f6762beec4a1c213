"""What methods say before training of steps in which they cannot act, and that a plan and a report pass it on."""

from __future__ import annotations

import dataclasses

import pytest

from tunewright import catalogue
from tunewright.contract.method import Method, Plan

PLAN = Plan(100, 10_000, "s", 1, 1e-3, 0)
CASES = [
    # method, parameters that act in 100 steps, parameters that do not, what is said of them
    ("adalora", {}, {"tinit": 60, "tfinal": 40}, "60 come before and 40 after"),
    ("adalora", {}, {"delta_t": 90}, "falls at once"),
    ("bayesprompt", {"gather": 0.99}, {"gather": 1.0}, "gathered for 100 of 100 steps"),
    ("codyra", {}, {"kappa": 0.1}, "takes 2.6 from every gate"),
    ("cooldown", {}, {"switch": 1.0}, "stays at 5"),
    ("early-replay", {}, {"until": 0.995}, "replayed to the end"),
    ("ema", {"every": 3}, {}, "43% of the average is still the start"),
    ("fpf", {"k": 4}, {"k": 5}, "its first round comes at step 20 of 100"),
    ("hft", {"round_steps": 99}, {"round_steps": 100}, "do not reach round_steps 100"),
    ("infinite-lr", {}, {"warmup_steps": 60, "cooldown_steps": 40}, "take 100 of 100"),
    ("infinite-lr", {"anneal_steps": 5}, {"anneal_steps": 5, "anneal_from": 100}, "nothing is annealed"),
    ("ist", {"every": 99}, {"every": 100}, "no trial is made"),
    ("jei-dnn", {}, {"warmup": 0.6}, "its gates train for 40 steps"),
    ("lae", {"momentum": 0.99}, {}, "it follows 1.0% of the way in 100 steps; a momentum of 0.993"),
    ("lift", {"refresh_steps": 99}, {}, "do not reach refresh_steps 400"),
    ("meta-schedule", {}, {"warmup": 0.999}, "the warm-up takes all 100 steps"),
    ("r-amt", {}, {"threshold": -0.2}, "masked after about 210 steps, and there are 100"),
    ("rewarm-redecay-replay", {}, {"warmup": 0.999}, "the warm-up takes all 100 steps"),
    ("sara", {}, {"readjust": 0.001}, "the mask is drawn once"),
    ("skill-it", {"update_steps": 99}, {"update_steps": 100}, "the shares are set once"),
    ("spiel", {"first": 99}, {"first": 100}, "no place moves"),
]


@pytest.mark.parametrize(("name", "acts", "idle", "said"), CASES)
def test_a_method_says_where_the_steps_are_too_few_and_nothing_where_it_acts(name, acts, idle, said):
    cls = catalogue.load_method(name)
    assert cls(**acts).caution(PLAN) is None
    assert said in cls(**idle).caution(PLAN)


def test_a_choice_of_never_is_no_slip():
    for name, never in (
        ("hft", {}),
        ("lift", {"refresh_steps": None}),
        ("ist", {"trials": 1, "every": 500}),
        ("cooldown", {"initial": 1.0, "switch": 1.0}),
        ("codyra", {"kappa": 0.0}),
        ("sara", {"readjust": None}),
    ):
        assert catalogue.load_method(name)(**never).caution(PLAN) is None, name
    first = dataclasses.replace(PLAN, index=0)  # the first task of lae has no offline expert
    assert catalogue.load_method("lae")().caution(first) is None


def test_every_method_that_says_something_is_tried_here():
    own = {n for n in catalogue.entries() if catalogue.load_method(n).caution is not Method.caution}
    assert own == {name for name, *_ in CASES} | {
        *("curriculum-lm-pretraining", "data-mixing-agent", "fedavg", "foster", "mhr", "sfprompt"),
    }


def test_a_first_stage_that_trains_a_part_of_what_is_not_there_is_told():
    mhr, first = catalogue.load_method("mhr"), dataclasses.replace(PLAN, index=0)
    assert "there is no inventory yet of which tune: routing" in mhr(tune="routing").caution(first)
    assert mhr(tune="routing").caution(PLAN) is None and mhr().caution(first) is None


def test_a_curriculum_whose_budget_ends_before_its_hardest_rows_is_told():
    curriculum = catalogue.load_method("curriculum-lm-pretraining")
    pools = [dataclasses.replace(PLAN, sources={"a": own, "old": 10**6}, replay=("old",)) for own in (10_000, 25_000)]
    assert "ends at 40% of the way" in curriculum().caution(pools[1])
    assert "ends at 80% of the way" in curriculum(warmup=0.5).caution(pools[1])
    for fine in (curriculum(warmup=0.3), curriculum(order="interleaved")):
        assert fine.caution(pools[1]) is None
    assert curriculum().caution(pools[0]) is None


def test_a_task_that_may_end_before_compression_is_told():
    foster, first = catalogue.load_method("foster")(), dataclasses.replace(PLAN, index=0)
    assert "may end before compression" in foster.caution(dataclasses.replace(PLAN, exact=False))
    assert "nothing is compressed" in foster.caution(dataclasses.replace(PLAN, steps=1))
    assert foster.caution(PLAN) is None and foster.caution(dataclasses.replace(first, exact=False)) is None


def test_a_source_field_that_nothing_follows_is_told():
    agent = catalogue.load_method("data-mixing-agent")()
    plan = dataclasses.replace(PLAN, sources={"new": 1, "old": 1}, replay=("old",), measured=("new",))
    assert "nothing of old is followed" in agent.caution(plan)
    assert agent.caution(dataclasses.replace(plan, measured=("old",))) is None and agent.caution(PLAN) is None
