from __future__ import annotations

import json
import time
from types import SimpleNamespace

import pytest

from tunewright.machine import host
from tunewright.measure import cost as costs
from tunewright.measure.cost import Cost


def test_nested_seconds_are_counted_once_and_failures_too(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(costs, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    cost = Cost()
    with pytest.raises(KeyError), cost.phase("train"):
        now[0] += 2.0
        with cost.phase("statistics"):
            now[0] += 5.0
        now[0] += 1.0
        raise KeyError
    assert (cost.phases["statistics"].seconds, cost.phases["train"].seconds, cost.total.seconds) == (5.0, 3.0, 8.0)


def test_seconds_are_those_of_a_clock_and_memory_is_the_peak():
    cost = Cost()
    began = time.perf_counter()
    with cost.phase("train"):
        time.sleep(0.05)
    assert 0.05 <= cost.phases["train"].seconds <= time.perf_counter() - began
    assert cost.peak_memory > 50e6 and cost.peak_memory <= host.peak_memory() and cost.load_at_start is not None


def test_what_was_spent_before_an_interruption_counts():
    first = Cost()
    first.add("train", tokens=100, flops=6000.0)
    first.phases["train"].seconds = 5.0
    state = json.loads(json.dumps(first.state()))
    again = Cost()
    again.add("train", tokens=20, flops=1200.0)
    again.restore(state)
    assert (again.total.tokens, again.total.flops, again.total.seconds) == (
        120,
        7200.0,
        5.0,
    ) and again.peak_memory >= first.peak_memory
