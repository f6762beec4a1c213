"""Checks of what a class declares, whatever slots it fills."""

from __future__ import annotations

import inspect
from typing import ClassVar

from pydantic import ValidationError

from tunewright.conformance.bench import task_of
from tunewright.conformance.case import Case, Check, refused
from tunewright.contract.class_check import check_class
from tunewright.contract.combining import check_conflicts
from tunewright.contract.method import Method, arguments
from tunewright.contract.slot import SLOTS, TRAINING_SLOTS
from tunewright.contract.task import Task


def declarations_are_whole(case: Case) -> None:
    """At least one slot, known arguments only, a description on every field, docstrings on class and module."""
    cls = type(case.method)
    check_class(cls)
    assert cls.__doc__ and cls.__doc__ != Method.__doc__, f"{cls.__name__} has no docstring"
    assert inspect.getdoc(inspect.getmodule(cls)), (
        f"the module of {cls.__name__} has no docstring: say what it does, the formula, the source"
    )
    for need in case.method.needs():
        assert need.when in ("once", "prepare", "batch", "redraw", "end") and need.name, (
            f"{need} does not say what or when it is"
        )
        assert need == type(need)(**need.model_dump()) and hash(need) == hash(type(need)(**need.model_dump())), (
            "equal needs must be equal, so that they are computed once"
        )


def is_plain_data(case: Case) -> None:
    """Parameters survive JSON, cannot be set afterwards, and unknown ones are refused."""
    cls = type(case.method)
    assert cls.model_validate_json(case.method.model_dump_json()) == case.method, "the parameters do not survive JSON"
    for field in cls.model_fields:
        try:
            setattr(case.method, field, getattr(case.method, field))
        except ValidationError:
            continue
        raise AssertionError(f"'{field}' can be changed after the method was made")
    try:
        cls(**{**case.method.model_dump(), "no_such_parameter": 1})
    except ValidationError:
        return
    raise AssertionError("an unknown parameter is accepted")


def conflicts_are_refused(case: Case) -> None:
    """The same name twice, a second method on a slot that takes one, and a task that is not served."""
    with refused(case.name):
        check_conflicts([(case.name, case.method), (case.name, case.method)], stage="s")
    for slot in (SLOTS[s] for s in case.slots):
        if slot.several == "one":
            with refused(case.name, "another", slot.name):
                check_conflicts([(case.name, case.method), ("another", _only(slot.name))], stage="s")
    if case.method.tasks is not None:
        with refused(case.name, "no-such-task"):
            check_conflicts([(case.name, case.method)], stage="s", task=_Other())


class _Other(Task):
    """A task of no kind that any method names."""

    name: ClassVar[str] = "no-such-task"


def _only(slot: str) -> Method:
    """A method that fills one slot and asks for nothing."""

    def function(self: Method) -> None:
        return None

    cls = type("Only", (Method,), {slot: function, "__module__": __name__, "__doc__": "Fills one slot."})
    arguments(cls, slot)
    method: Method = cls()
    return method


def fills_training_slots(case: Case) -> bool:
    return any(s in TRAINING_SLOTS for s in case.slots) and task_of(case.method) is not None


CHECKS = [
    Check("declarations are whole", lambda case: True, declarations_are_whole),
    Check("is plain data", lambda case: True, is_plain_data),
    Check("conflicts are refused", lambda case: True, conflicts_are_refused),
]
