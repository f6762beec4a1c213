"""The distance of weights from the base's is that of the folded weights, for full training and for low-rank changes."""

from __future__ import annotations

import math

import pytest

from tests.methods.driving import Run
from tunewright.methods.adapters.ia3 import IA3
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.parameter_selection.full import FullFineTuning
from tunewright.models.distance import relative_distance


@pytest.mark.parametrize("method", [LoRA(rank=2), FullFineTuning(), IA3()], ids=["lora", "full", "ia3"])
def test_it_is_that_of_the_folded_weights(method):
    run = Run({"method": method}, steps=2)
    assert relative_distance(run.adapted) == pytest.approx(0, abs=1e-7)
    run.train()
    found, now, first = relative_distance(run.adapted), run.adapted.tuned_state(), run.adapted.tuned_state(0.0)
    names = set(run.adapted.base_parameters())  # tied ones once
    apart = sum(float((now[n] - first[n]).double().square().sum()) for n in names)
    whole = sum(float(first[n].double().square().sum()) for n in names)
    assert found == pytest.approx(math.sqrt(apart / whole), rel=1e-4) and found > 0
