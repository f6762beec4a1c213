"""Merges under `after:` of a recipe: those that learn from the run's rows, that count over all tensors, and plain
ones.
"""

from __future__ import annotations

import pytest
import torch

from tests import small
from tunewright.errors import MethodError
from tunewright.finished.finished import open_run
from tunewright.recipe import Recipe
from tunewright.runs.run import run
from tunewright.weights.blocks import state_of

STAGES = [
    {"name": "first", "methods": ["full"], "budget": {"steps": 2}},
    {"name": "second", "start": "base", "methods": ["full"], "budget": {"steps": 2}, "train": {"seed": 7}},
]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Runs a recipe with an `after:` list: the finished model's tensors."""
    folder = tmp_path_factory.mktemp("after")
    small.write_inputs(folder)

    def make(name, after):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TUNEWRIGHT_CACHE", str(folder / "cache"))
            run(
                Recipe.load(
                    small.write_recipe(folder, name, stages=STAGES, after=after, measurement__drift_sequences=2)
                ),
                folder / name,
                quiet=True,
            )
            finished = open_run(folder / name)
        finished.adapted.fold()
        return state_of(finished.adapted.model)

    return make


def of(**more):
    return {"of": ["stages.first"], **more}


@pytest.mark.slow
def test_merges_under_after(made):
    second = made("alone", [])
    half = made("half", [{"slerp": of(t=0.5)}])
    mean = made("mean", [{"linear": of()}])
    assert any(not torch.equal(half[n], second[n]) for n in second)
    off = max(float((half[n] - mean[n]).norm() / mean[n].norm()) for n in second)
    assert off < 0.02, off  # both went a little way from one base, so SLERP is nearly the mean
    assert all(torch.equal(t, second[n]) for n, t in made("whole", [{"wise-ft": {"amount": 1.0}}]).items())
    for name, after in {
        "ties": {"ties": of(over="model")},
        "atlas": {"atlas": of(samples=6, epochs=1)},
        "pleas": {"pleas": of(samples=6)},
    }.items():
        found = made(name, [after])
        assert all(torch.isfinite(t).all() for t in found.values()) and any(
            not torch.equal(found[n], mean[n]) for n in found
        ), name


def test_what_a_run_cannot_do_to_its_own_model_is_refused(made):
    with pytest.raises(MethodError, match="intermediate_size"):
        made("wide", [{"pleas": of(samples=6, budget=0.5)}])
    with pytest.raises(MethodError, match="exactly 2"):
        made("three", [{"slerp": {"of": ["stages.first", "stages.first"]}}])
