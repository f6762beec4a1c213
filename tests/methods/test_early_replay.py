"""Early replay: the drawn tokens hold old data up to the switch and none behind it; a stopped run goes on alike."""

from __future__ import annotations

import pytest

from tests.methods.driving import Run, assert_resumes, text_rows
from tunewright.contract.method import Plan
from tunewright.data.order import Cursor, with_replay
from tunewright.errors import MethodError
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.inputs.early_replay import EarlyReplay

SOURCES = {"new": text_rows(40, "new"), "more": text_rows(20, "more"), "old": text_rows(20, "old")}
SIZES = {n: sum(r.size for r in rows) for n, rows in SOURCES.items()}
SHARES = with_replay({"new": 0.75, "more": 0.25}, {"old": 0.4})


def test_old_data_are_drawn_before_the_switch_alone():
    class Data:
        def __init__(self, name):
            self.name, self.hash, self.rows = name, name, SOURCES[name]

    method = EarlyReplay(until=0.25)
    plan = Plan(200, 10_000, "main", 0, 1e-3, 0, sources=SIZES, replay=("old",))
    cursor = Cursor([Data(n) for n in SOURCES], dict(SHARES), seed=0, batch_tokens=40, replayed=["old"])
    for first, last, expected in ((0, 50, 0.4), (50, 200, 0.0)):
        before = dict(cursor.given)
        for step in range(first, last):
            weights = method.mixture(cursor.weights, step, plan)
            cursor.weights = cursor.weights if weights is None else weights
            cursor.next_batch()
        got = {n: cursor.given[n] - before[n] for n in SOURCES}
        assert got["old"] / sum(got.values()) == pytest.approx(expected, abs=0.03 if expected else 0)
        assert got["more"] / (got["new"] + got["more"]) == pytest.approx(0.25, abs=0.03)


def made(listen=None):
    plan = {"sources": SIZES, "replay": ("old",)}
    methods = {"lora": LoRA(rank=2), "early-replay": EarlyReplay(until=0.5)}
    return Run(methods, sources=SOURCES, plan=plan, steps=6, listen=listen)


def test_the_loop_asks_it_at_every_step():
    run, held = made(), []
    real = run.cursor.next_batch
    run.cursor.next_batch = lambda: (held.append(run.cursor.weights.get("old")), real())[1]
    run.train()
    assert held[0] and held[:3] == [held[0]] * 3 and held[3:] == [0.0] * 3


def test_resumes():
    assert_resumes(made, 2)


def test_nothing_to_replay_is_refused():
    with pytest.raises(MethodError, match="names none"):
        Run({"lora": LoRA(rank=2), "early-replay": EarlyReplay()}, sources=SOURCES, plan={"sources": SIZES})
