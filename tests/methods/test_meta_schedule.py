"""Meta-schedules: each stage's factors by hand, and how many steps were before it."""

from __future__ import annotations

import math

import pytest

from tests.methods.class_tasks import TASKS, end, left_by, model, rows
from tests.methods.driving import Run, assert_resumes
from tunewright.contract.method import Plan, State
from tunewright.methods.optimization.meta_schedule import MetaSchedule
from tunewright.methods.parameter_selection.full import FullFineTuning


def factors(before: int, steps: int, first: int, **fields) -> list[float]:
    method, plan = MetaSchedule(**fields), Plan(steps, 0, "s", 0, 1.0, 0)
    state = State(before=before, steps=before + steps, first=first)
    return [method.schedule(step, plan, state) for step in range(steps)]


def test_the_first_stage_has_the_cosine_that_it_had_without_it():
    by_hand = [t / 2 if t <= 2 else (1 + math.cos(math.pi * (t - 2) / 18)) / 2 for t in range(1, 21)]
    assert factors(0, 20, 2) == pytest.approx(by_hand)


def test_later_stages_rise_to_where_their_warm_up_meets_the_cosine_over_all_steps_so_far():
    for before in (20, 40, 60):
        found = factors(before, 20, 2)
        whole = [(1 + math.cos(math.pi * (t - 2) / (before + 18))) / 2 for t in range(1, before + 21)]
        assert max(found) == found[1] == pytest.approx(whole[before + 1])
        assert found[0] == pytest.approx(found[1] / 2) and found[-1] == pytest.approx(0, abs=1e-9)
        assert found[10] == pytest.approx(found[1] * (1 + math.cos(math.pi * 9 / 18)) / 2)
    assert max(factors(20, 20, 2)) > max(factors(40, 20, 2)) > max(factors(60, 20, 2))


def test_rsqrt_goes_on_over_stages_and_cools_down_at_each_end():
    first, second = factors(0, 20, 2, kind="rsqrt"), factors(20, 20, 2, kind="rsqrt")
    assert first[1] == pytest.approx(1) and first[0] == pytest.approx(0.5)
    assert first[9] == pytest.approx(math.sqrt(2 / (2 + 10 - 2)))
    assert second[1] == pytest.approx(math.sqrt(2 / 22)) and second[9] == pytest.approx(math.sqrt(2 / 30))
    assert first[18] == pytest.approx(math.sqrt(2 / 19) / 4) and first[-1] == second[-1] == 0
    assert first[15] == pytest.approx(math.sqrt(2 / 16))


def test_every_parameter_moves_the_factors():
    plain = factors(20, 20, 2)
    assert plain != factors(20, 20, 2, warmup=0.4) and plain != factors(20, 20, 2, kind="rsqrt")
    assert factors(20, 20, 2, kind="rsqrt") != factors(20, 20, 2, kind="rsqrt", cooldown=0.5)


def test_a_warm_up_of_all_steps_is_told():
    assert "does not fall" in str(MetaSchedule(warmup=0.9).caution(Plan(1, 0, "s", 0, 1.0, 0)))
    assert MetaSchedule().caution(Plan(20, 0, "s", 0, 1.0, 0)) is None


def test_a_stage_goes_on_from_the_steps_of_those_that_it_starts_from(tmp_path):
    rates = []
    for name in ("one", "two", "three"):
        run = Run(
            {"full": FullFineTuning(), "meta-schedule": MetaSchedule(warmup=0.25)},
            model=model(),
            task="text-classification",
            sources={"t": rows(TASKS[0], "text-classification")},
            steps=4,
            earlier=left_by(tmp_path),
        )
        run.train()
        end(run, tmp_path, name)
        rates.append([r["learning_rate"] for r in run.records])
    by_hand = [[1e-2 * f for f in factors(before, 4, 1, warmup=0.25)] for before in (0, 4, 8)]
    assert [rate for one in rates for rate in one] == pytest.approx([rate for one in by_hand for rate in one])


def test_resumes():
    methods = {"full": FullFineTuning(), "meta-schedule": MetaSchedule()}
    assert_resumes(lambda listen: Run(methods, steps=5, listen=listen), 3)
