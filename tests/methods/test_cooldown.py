"""Cooldown: shares follow n^(1/tau), tau comes down, replay keeps its share, a stopped run goes on bit for bit."""

from __future__ import annotations

import math

import pytest

from tests.methods.driving import Run, assert_resumes, text_rows
from tunewright.contract.method import Plan
from tunewright.data.order import Cursor
from tunewright.errors import MethodError
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.inputs.cooldown import Cooldown, shares, temperature_at

SOURCES = {"large": text_rows(40, "large"), "small": text_rows(4, "small")}
SIZES = {n: sum(r.size for r in rows) for n, rows in SOURCES.items()}


def test_shares_are_proportional_at_one_and_equal_at_infinity():
    assert shares({"a": 100, "b": 1}, 1.0) == pytest.approx({"a": 100 / 101, "b": 1 / 101})
    assert shares({"a": 100, "b": 1}, math.inf) == pytest.approx({"a": 0.5, "b": 0.5})
    assert shares({"a": 100, "b": 1}, 2.0) == pytest.approx({"a": 10 / 11, "b": 1 / 11})
    assert sum(shares({"a": 7, "b": 2, "c": 5}, 3.0).values()) == pytest.approx(1)


def test_the_temperature_comes_down_at_the_switch_or_along_a_line():
    assert [temperature_at(p, 5, 1, 0.5, "step") for p in (0, 0.49, 0.5, 1)] == [5, 5, 1, 1]
    assert [temperature_at(p, 5, 1, 0.5, "linear") for p in (0, 0.25, 0.5, 1)] == [5, 3, 1, 1]


def test_the_drawn_tokens_follow_the_shares():
    class Data:
        def __init__(self, name):
            self.name, self.hash, self.rows = name, name, SOURCES[name]

    method, plan = Cooldown(initial=4, final=1), Plan(400, 10_000, "main", 0, 1e-3, 0, sources=SIZES)
    cursor = Cursor([Data(n) for n in SOURCES], SIZES, seed=0, batch_tokens=40)
    for first, last, tau in ((0, 200, 4.0), (200, 400, 1.0)):
        before = dict(cursor.given)
        for step in range(first, last):
            cursor.weights = method.mixture(cursor.weights, step, plan)
            cursor.next_batch()
        got = {n: cursor.given[n] - before[n] for n in SOURCES}
        assert got["small"] / sum(got.values()) == pytest.approx(shares(SIZES, tau)["small"], abs=0.01)


def test_the_first_batch_already_follows_and_replay_keeps_its_share():
    plan = Plan(10, 1, "s", 0, 1e-3, 0, sources={"a": 16, "b": 1, "old": 5}, replay=("old",))
    weights = Cooldown(initial=4).mixture({"a": 0.8, "b": 0.1, "old": 0.1}, 0, plan)
    assert weights == pytest.approx({"a": 0.6, "b": 0.3, "old": 0.1})
    run = Run({"lora": LoRA(rank=2), "cooldown": Cooldown()}, sources=SOURCES, plan={"sources": SIZES}, steps=2)
    held = []
    run.cursor.next_batch = (lambda real: lambda: (held.append(dict(run.cursor.weights)), real())[1])(
        run.cursor.next_batch
    )
    run.train()
    assert held == [pytest.approx(shares(SIZES, 5.0)), pytest.approx(shares(SIZES, 1.0))]


def test_resumes():
    def make(listen):
        return Run(
            {"lora": LoRA(rank=2), "cooldown": Cooldown(shape="linear")},
            sources=SOURCES,
            plan={"sources": SIZES},
            steps=6,
            listen=listen,
        )

    assert_resumes(make, 2)


def test_one_source_is_refused():
    with pytest.raises(MethodError, match="balances sources"):
        Run(
            {"lora": LoRA(rank=2), "cooldown": Cooldown()}, plan={"sources": {"new": 100, "old": 9}, "replay": ("old",)}
        )
