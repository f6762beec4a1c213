"""Re-warm, re-decay, replay: the rate's corners, the share of old data, and the new data's order without replay."""

from __future__ import annotations

import pytest

from tests.methods.driving import Run, assert_resumes, text_rows
from tunewright.contract.method import Plan
from tunewright.data.order import Cursor, with_replay
from tunewright.errors import MethodError
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.optimization.rewarm_redecay_replay import RewarmRedecayReplay, rewarmed, with_share

NEW, OLD = text_rows(30, "new"), text_rows(30, "old")
PLAN = {"sources": {"new": sum(r.size for r in NEW), "old": sum(r.size for r in OLD)}, "replay": ("old",)}


class Data:
    def __init__(self, name, rows):
        self.name, self.hash, self.rows = name, name, rows


def test_the_rate_peaks_at_the_warm_up_s_end_and_stays_at_the_floor():
    factors = [rewarmed(t, 10, 100, 0.1) for t in range(0, 221)]
    assert factors[0] == 0 and factors[5] == 0.5 and factors[10] == 1 and factors[55] == pytest.approx(0.55)
    assert factors[100] == pytest.approx(0.1) and set(factors[101:]) == {factors[100]}
    assert max(factors) == factors[10]
    assert rewarmed(0, 10, 100, 0.1, start=0.1) == 0.1


def test_the_loop_s_rate_follows():
    run = Run({"lora": LoRA(rank=2), "r": RewarmRedecayReplay(warmup=0.5, replay=0.0)}, steps=4)
    run.train()
    assert [r["learning_rate"] for r in run.records] == pytest.approx([0.5e-2, 1e-2, 0.55e-2, 0.1e-2])


@pytest.mark.parametrize("share", [0.05, 0.25])
def test_the_share_of_old_tokens_is_a(share):
    method, plan = RewarmRedecayReplay(replay=share), Plan(1, 1, "s", 0, 1e-3, 0, **PLAN)
    cursor = Cursor(
        [Data("new", NEW), Data("old", OLD)], with_replay({"new": 1.0}, {"old": 0.5}), seed=0, batch_tokens=50
    )
    cursor.weights = method.mixture(cursor.weights, plan)
    for _ in range(300):
        cursor.next_batch()
    assert cursor.given["old"] / sum(cursor.given.values()) == pytest.approx(share, abs=0.002)


def test_each_side_keeps_its_proportions():
    weights = with_share({"a": 2.0, "b": 6.0, "x": 1.0, "y": 3.0}, ("x", "y"), 0.2)
    assert weights == pytest.approx({"a": 0.2, "b": 0.6, "x": 0.05, "y": 0.15})


def test_a_share_of_zero_draws_no_old_row_step_after_step():
    method, plan = RewarmRedecayReplay(replay=0.0), Plan(1, 1, "s", 0, 1e-3, 0, **PLAN)
    cursor = Cursor(
        [Data("new", NEW), Data("old", OLD)], with_replay({"new": 1.0}, {"old": 0.5}), seed=0, batch_tokens=50
    )
    for _ in range(3):
        cursor.weights = method.mixture(cursor.weights, plan)
        cursor.next_batch()
    assert cursor.given["new"] > 0 and not cursor.given.get("old")


def test_without_replay_the_new_data_keep_their_order():
    alone = Cursor([Data("new", NEW)], {"new": 1.0}, seed=3, batch_tokens=50)
    beside = Cursor([Data("new", NEW), Data("old", OLD)], {"new": 0.5, "old": 0.5}, seed=3, batch_tokens=50)
    beside.weights = RewarmRedecayReplay(replay=0.0).mixture(beside.weights, Plan(1, 1, "s", 0, 1e-3, 0, **PLAN))
    for _ in range(10):
        assert [r.id for r, _ in alone.next_batch()] == [r.id for r, _ in beside.next_batch()]


def test_without_a_share_of_its_own_data_replay_holds():
    assert RewarmRedecayReplay().mixture({"new": 0.9, "old": 0.1}, Plan(1, 1, "s", 0, 1e-3, 0, **PLAN)) is None


def test_resumes_with_replay():
    def make(listen):
        return Run(
            {"lora": LoRA(rank=2), "r": RewarmRedecayReplay(replay=0.4)},
            sources={"new": NEW, "old": OLD},
            plan=PLAN,
            steps=6,
            listen=listen,
        )

    assert_resumes(make, 3)
    run = make(None)
    run.train()
    assert {i.split(":")[0] for i in run.cursor.seen} == {"new", "old"}


def test_nothing_to_replay_is_refused():
    with pytest.raises(MethodError, match="names none"):
        Run({"lora": LoRA(rank=2), "r": RewarmRedecayReplay()})
