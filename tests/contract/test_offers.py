"""What the table says a slot offers is there when the slot is driven: nothing is promised that a call does not hold."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import pytest

from tunewright.conformance.bench import Tiny
from tunewright.conformance.case import Case
from tunewright.contract.method import Method
from tunewright.contract.slot import SLOTS, TRAINING_SLOTS


def asking_for_all(slot: str, seen: dict[str, Any]) -> Case:
    """The slot's example, whose function asks for everything that the slot offers and notes what it got."""
    module = importlib.import_module(f"tunewright.conformance.examples.{slot}")
    own = (c for c in vars(module).values() if isinstance(c, type) and issubclass(c, Method))
    (cls,) = [c for c in own if c.__module__ == module.__name__]
    original = getattr(cls, slot)
    wanted = list(inspect.signature(original).parameters)[1:]

    def function(self: Method, **given: Any) -> Any:
        seen.update(given)
        return original(self, **{n: given[n] for n in wanted})

    kinds = [inspect.Parameter(n, inspect.Parameter.POSITIONAL_OR_KEYWORD) for n in ("self", *SLOTS[slot].offers)]
    function.__signature__ = inspect.Signature(kinds)  # type: ignore[attr-defined]
    return Case.of(type(cls.__name__, (cls,), {slot: function, "__module__": __name__, "__doc__": "Asks for all."}))


@pytest.mark.parametrize("slot", TRAINING_SLOTS)
def test_a_training_slot_gives_all_that_it_offers(slot):
    seen: dict[str, Any] = {}
    Tiny(asking_for_all(slot, seen).named).run()
    assert set(seen) == set(SLOTS[slot].offers)
    assert all(v is not None for n, v in seen.items() if n != "tokenizer")


@pytest.mark.parametrize("slot", SLOTS)
def test_every_argument_is_described(slot):
    assert all(SLOTS[slot].argument(n) for n in SLOTS[slot].offers)
