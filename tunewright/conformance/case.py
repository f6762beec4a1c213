"""A method under test, and what a check is."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import torch

from tunewright.contract.method import Method
from tunewright.errors import MethodError
from tunewright.models.generators import every_device, present


@dataclass(frozen=True)
class Case:
    """A method's name and the object to check. Parameters: the class's `conformance`, over its defaults."""

    name: str
    method: Method

    @property
    def named(self) -> list[tuple[str, Method]]:
        """The method with those that it cannot do without (`conformance_beside`: name -> parameters), in order."""
        from tunewright.catalogue import load_method

        beside: dict[str, dict[str, Any]] = getattr(type(self.method), "conformance_beside", {})
        return [*((n, load_method(n)(**p)) for n, p in beside.items()), (self.name, self.method)]

    def replace(self, method: Method) -> Case:
        return Case(self.name, method)

    @classmethod
    def of(cls, method: str | type[Method] | Method, **parameters: Any) -> Case:
        """From a recipe's name, a class or an object; `parameters` go before the class's `conformance` values."""
        if isinstance(method, str):
            from tunewright.catalogue import load_method

            name, kind = method, load_method(method)
        elif isinstance(method, Method):
            return cls(type(method).__name__.lower(), method)
        else:
            name, kind = method.__name__.lower(), method
        return cls(name, kind(**{**getattr(kind, "conformance", {}), **parameters}))

    @property
    def slots(self) -> tuple[str, ...]:
        return type(self.method).slots()


C = TypeVar("C")


@dataclass(frozen=True)
class Check(Generic[C]):
    """One property of a case. `applies` says of which it is asked; `run` raises AssertionError where it does not
    hold.
    """

    name: str
    applies: Callable[[C], bool]
    run: Callable[[C], None]


@contextmanager
def global_randomness_unchanged() -> Iterator[None]:
    """Fail if anything inside drew from or seeded a global generator of Python, numpy or torch."""
    before = random.getstate(), np.random.get_state(), present(every_device())  # noqa: NPY002
    yield
    after = random.getstate(), np.random.get_state(), present(list(before[2]))  # noqa: NPY002
    assert before[0] == after[0], "Python's global generator was used: draw from the rng that the slot offers"
    assert all(np.array_equal(a, b) for a, b in zip(before[1], after[1], strict=True)), (
        "numpy's global generator was used"
    )
    assert all(torch.equal(state, after[2][device]) for device, state in before[2].items()), (
        "torch's global generator was used: make one with method.torch_generator(rng)"
    )


@contextmanager
def refused(*words: str) -> Iterator[None]:
    """Fail unless a MethodError is raised inside whose text holds every word."""
    try:
        yield
    except MethodError as error:
        missing = [w for w in words if w not in str(error)]
        assert not missing, f"the refusal does not name {missing}: {error}"
        return
    raise AssertionError("this should have been refused with a MethodError")
