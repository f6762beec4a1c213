"""A stage whose gradient is zero at every step has learnt nothing, and its run says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import small
from tests.loop import run
from tunewright.contract.batch import Loss
from tunewright.contract.method import Method
from tunewright.methods.objectives.stablemax import StableMax
from tunewright.recipe import Recipe
from tunewright.runs.run import run as launch

STAGE = {"name": "task", "methods": ["full", "stablemax"], "budget": {"steps": 2}}


class Loose(Method):
    """A loss that hangs on no weight."""

    def objective(self, outputs, batch):
        return Loss(-outputs.log_probs().detach())


class Weightless(Method):
    """A loss of which nothing counts."""

    def objective(self, outputs, batch):
        return Loss(-outputs.log_probs() * 0)


class Dropped(Method):
    """Gradients that are thrown away."""

    def gradient(self, gradients):
        return {}


class Late(Method):
    """Gradients of the last step alone."""

    def gradient(self, gradients, step):
        return gradients if step == 5 else {}


@pytest.mark.parametrize("method", [Loose(), Weightless(), Dropped()])
def test_a_loop_that_pulls_at_nothing_knows_it(method):
    loop, records = run(method)
    assert not loop.pulled and {r["grad_norm"] for r in records} == {0.0}


def test_one_step_with_a_gradient_is_enough():
    assert run(Late())[0].pulled and run()[0].pulled


@pytest.mark.parametrize("given, said", [(True, False), (False, True)])
def test_the_report_says_that_nothing_was_learnt(given, said, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    if not given:
        monkeypatch.setattr(StableMax, "objective", lambda self, outputs: Loss(-outputs.log_probs().detach()))
    small.write_inputs(tmp_path)
    file = small.write_recipe(tmp_path, "r", stages=[STAGE], keep=[])
    report = launch(Recipe.load(file)).report
    told = [n for n in report.notes if n.startswith("the run learnt nothing")]
    assert bool(told) is said and all("'full', 'stablemax'" in n for n in told)
