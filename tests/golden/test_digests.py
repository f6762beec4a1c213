"""Nothing that the product prints moves unless somebody means it to: every digest comes out again.

Equal in every bit where instructions and libraries are those that wrote the file, else to rounding, which training lets
grow with its steps. A change that means to move a number writes the files anew and says why in its commit.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from tests.golden import digests
from tunewright.catalogue import load_method

ROUNDING = {"roste"}
"""Methods in whose forward a weight's last bit decides to which of a few values it is rounded."""
NEAR_STEPS = 5
"""Steps over which other processors still agree closely; later ones amplify rounding."""


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def kept(path) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return tree


METHODS, REPORTS = kept(digests.METHODS), kept(digests.REPORTS)


def agree(now: list[float], then: list[float], machine: dict[str, str], *, grown: float = 1) -> None:
    """`grown`: how much further rounding has grown than over one stage before."""
    if machine == digests.machine():
        assert now == then
    else:
        assert len(now) == len(then)
        near = round(NEAR_STEPS / grown)
        assert now[:near] == pytest.approx(then[:near], rel=5e-3 * grown, abs=1e-4)
        # what is sampled, and what a quantised or sharply scaled weight does, parts ways step by step: not on the whole
        later = [sum(losses[NEAR_STEPS:]) / len(losses[NEAR_STEPS:]) for losses in (now, then)]
        assert later[0] == pytest.approx(later[1], rel=0.05 * grown, abs=0.05 * grown)


def test_every_method_has_a_digest():
    assert set(METHODS["losses"]) == set(digests.trained_methods())
    assert set(METHODS["norms"]) == set(digests.tensor_methods())
    assert set(METHODS["streams"]) == set(digests.stream_methods())
    assert set(METHODS["made"]) == set(digests.making_methods())


@pytest.mark.parametrize("name", digests.trained_methods())
def test_a_methods_losses_do_not_move(name):
    stages = getattr(load_method(name), "conformance_stages", 1)
    rounds = 2 if name in ROUNDING else 1
    agree(digests.losses(name), METHODS["losses"][name], METHODS["machine"], grown=max(rounds, stages - 1))


@pytest.mark.parametrize("name", digests.tensor_methods())
def test_what_merges_and_edits_give_does_not_move(name):
    now, then = digests.norms(name), METHODS["norms"][name]
    assert now == then if METHODS["machine"] == digests.machine() else now == pytest.approx(then, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("name", digests.stream_methods())
def test_what_is_answered_at_test_time_does_not_move(name):
    """To rounding everywhere: these were written on another processor than the rest of the file."""
    assert digests.streamed(name) == pytest.approx(METHODS["streams"][name], rel=0.02, abs=0.02)


@pytest.mark.parametrize("name", digests.making_methods())
def test_what_is_made_does_not_move(name):
    assert digests.made(name) == pytest.approx(METHODS["made"][name], rel=1e-3, abs=1e-4)


def compare(name: str, recipe: dict[str, Any], folder) -> None:
    now, then = digests.report(recipe, folder), REPORTS[name]
    if REPORTS["machine"] == digests.machine():
        assert now == then
    else:
        assert now.keys() == then.keys()
        values = [n for n in then if n.startswith(("kept.", "drift.")) and n.endswith(".value")]
        assert values and {n: now[n] for n in values} == pytest.approx({n: then[n] for n in values}, rel=0.02, abs=0.02)


@pytest.mark.parametrize("name", digests.RUNS)
def test_a_reports_figures_do_not_move(name, tmp_path):
    compare(name, digests.RUNS[name], tmp_path / "out")


@pytest.mark.slow
@pytest.mark.net
@pytest.mark.parametrize("name", digests.REAL)
def test_a_real_models_figures_do_not_move(name, tmp_path):
    compare(name, digests.REAL[name], tmp_path / "out")
