from __future__ import annotations

import json
import time

import pytest

from tunewright.machine import host
from tunewright.measure.cost import Cost


def test_nested_seconds_are_counted_once_and_failures_too():
    cost = Cost()
    with pytest.raises(KeyError), cost.phase("train"):
        with cost.phase("statistics"):
            time.sleep(0.05)
        raise KeyError
    assert 0.05 <= cost.phases["statistics"].seconds < 0.2 and cost.phases["train"].seconds < 0.04
    assert cost.total.seconds == pytest.approx(cost.phases["statistics"].seconds + cost.phases["train"].seconds)
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
