"""What a method of somebody's own raises is told with its name, slot and line; what others wait for passes."""

from __future__ import annotations

import pytest
import torch

from tests.loop import run, stage
from tunewright.contract.method import Method, call
from tunewright.errors import DataError, MethodError
from tunewright.methods.objectives.stablemax import StableMax
from tunewright.training.train import Loop


def broken(gradients):
    raise KeyError("lost")


class Raises(Method):
    """Raises what it is told to."""

    def gradient(self, gradients):
        broken(gradients)


class Double(Method):
    """Gives gradients in double precision."""

    def gradient(self, gradients):
        return {n: g.double() for n, g in gradients.items()}


class Refuses(Method):
    """Raises as it begins."""

    def setup(self, run):
        raise RuntimeError("\n")


def test_a_slot_that_raises_is_told_with_its_line_and_name():
    with pytest.raises(MethodError) as caught:
        run(Raises())
    told = caught.value
    line = next(i for i, text in enumerate(open(__file__, encoding="utf-8"), 1) if "raise KeyError" in text)
    assert told.what == "'raises' raised KeyError in gradient: 'lost'" and told.where == f"{__file__}:{line}"
    assert isinstance(told.__cause__, KeyError) and told.remedy


def test_a_setup_that_raises_is_told():
    with pytest.raises(MethodError, match="'refuses' raised RuntimeError in setup: no reason given"):
        stage(Refuses())


@pytest.mark.parametrize("error", [MemoryError("x"), torch.OutOfMemoryError("x"), DataError("x")])
def test_what_others_wait_for_passes(error, monkeypatch):
    def gradient(self, gradients):
        raise error

    monkeypatch.setattr(Raises, "gradient", gradient)
    with pytest.raises(type(error)) as caught:
        call(Raises(), "gradient", gradients={})
    assert caught.value is error


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch):
    def objective(self, outputs):
        raise KeyError("lost")

    monkeypatch.setattr(StableMax, "objective", objective)
    with pytest.raises(KeyError):
        call(StableMax(), "objective", outputs=None)


def test_gradients_of_another_precision_are_the_leafs():
    double, plain = run(Double())[0], run()[0]
    assert double.trained.changed().keys() == plain.trained.changed().keys()
    for name, value in plain.trained.changed().items():
        torch.testing.assert_close(double.trained.changed()[name], value)
    assert isinstance(double, Loop)
