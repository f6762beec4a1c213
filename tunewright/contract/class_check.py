"""What a method class may hold: checked when it is loaded, so that a slip of the pen is named and not ignored."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

from pydantic import BaseModel

from tunewright.contract.category import CATEGORIES
from tunewright.contract.method import Method, arguments
from tunewright.contract.slot import SLOTS
from tunewright.errors import MethodError, did_you_mean, nearest

READ_FIELDS = {
    "weight": "scales its objective or reward in the sum of several",
    "reference": "what its rollout's or objective's divergence is from: base, or start (whose weights are then kept)",
    "reuse": "optimizer steps on each rollout, by which a budget is planned",
    "group": "the parameter group whose optimizer it makes: all, base, delta or owned",
}
"""Fields that the core itself reads, of a method that has them; a class may fix one instead."""


def check_class(cls: type[Method]) -> None:
    """Check what a method class declares. MethodError for no slot, unknown arguments or names, or a bare field."""
    where = inspect.getsourcefile(cls)
    _check_names(cls, where)
    if not cls.slots():
        raise MethodError(
            f"{cls.__name__} fills no slot",
            where=where,
            remedy="define a function named after one of: " + ", ".join(SLOTS),
        )
    for slot in cls.slots():
        arguments(cls, slot)
    for name, info in cls.model_fields.items():
        if not info.description:
            raise MethodError(
                f"{cls.__name__}.{name} has no description",
                where=where,
                remedy="write it as Field(default, description='... with its unit')",
            )
    if not isinstance(cls.conformance, Mapping):
        raise MethodError(
            f"{cls.__name__}.conformance is no mapping",
            where=where,
            remedy='write conformance: ClassVar[dict[str, object]] = {"rank": 2}',
        )
    if cls.category is not None and cls.category not in CATEGORIES:
        raise MethodError(
            f"{cls.__name__}.category is '{cls.category}', which is no category",
            where=where,
            remedy=did_you_mean(cls.category, CATEGORIES),
        )
    rates = cls.learning_rates
    if not isinstance(rates, Mapping) or not all(isinstance(r, float) and r > 0 for r in rates.values()):
        raise MethodError(
            f"{cls.__name__}.learning_rates is no mapping from tasks to rates above 0",
            where=where,
            remedy='write learning_rates: ClassVar[Mapping[str, float]] = {"": 1e-3}',
        )
    beside = cls.conformance_beside
    if not isinstance(beside, Mapping) or not all(isinstance(p, Mapping) for p in beside.values()):
        raise MethodError(
            f"{cls.__name__}.conformance_beside is no mapping from names to parameters",
            where=where,
            remedy='write conformance_beside: ClassVar[dict[str, dict[str, Any]]] = {"lora": {"rank": 2}}',
        )


def _meant(name: str, known: set[str]) -> str:
    return did_you_mean(name, known) if nearest(name, known) else "docs/contract.md lists slots and hooks."


def _check_names(cls: type[Method], where: str | None) -> None:
    """A public name that nobody reads is a slip of the pen: `end_taks`, `papres`, a field called `wieght`."""
    # a base's field is no attribute of its class; a subclass may fix it: `dropout: ClassVar[float] = 0.0`
    above = (n for base in cls.__mro__[1:] for n in (*vars(base), *getattr(base, "model_fields", ())))
    # what the core reads of a field it reads of the class too: `reference: ClassVar[str] = "start"`
    known = {*SLOTS, *READ_FIELDS, *(n for n in above if not n.startswith("_"))}
    for name in vars(cls):
        if name.startswith("_") or name in known or name in cls.model_fields:
            continue
        raise MethodError(
            f"{cls.__name__} defines '{name}', which is neither a slot, a declared hook nor a field",
            where=where,
            remedy=f"{_meant(name, known - set(dir(BaseModel)))} A helper's name begins with an underscore.",
        )
    for name in set(cls.model_fields) - {*SLOTS, *READ_FIELDS}:
        slip = next((n for n in (*SLOTS, *READ_FIELDS) if n != name and sorted(n) == sorted(name)), None)
        if slip is not None:
            raise MethodError(f"{cls.__name__} has a field '{name}'", where=where, remedy=f"did you mean '{slip}'?")
