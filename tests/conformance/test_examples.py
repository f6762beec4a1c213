"""The method of each slot that docs/contract.md shows runs, fills that slot, and passes the suite."""

from __future__ import annotations

import importlib
import inspect

import pytest

from tunewright.conformance import checks_of
from tunewright.contract.method import Method
from tunewright.contract.slot import SLOTS


def example(slot):
    module = importlib.import_module(f"tunewright.conformance.examples.{slot}")
    own = (c for c in vars(module).values() if isinstance(c, type) and issubclass(c, Method))
    (cls,) = [c for c in own if c.__module__ == module.__name__]
    return cls


@pytest.mark.parametrize("slot", SLOTS)
def test_an_example_fills_its_slot_and_conforms(slot):
    cls = example(slot)
    assert slot in cls.slots()
    checks = checks_of(cls)
    assert len(checks) > 3, f"hardly anything is checked of the slot {slot}"
    for check in checks:
        check()


def test_examples_stay_short():
    for slot in SLOTS:
        lines = inspect.getsource(example(slot)).splitlines()
        assert len(lines) <= 32, f"{slot}: {len(lines)} lines"
