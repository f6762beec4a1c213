"""The changes of shape that files can do again, found by their form's name."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import Any

from tunewright.errors import MethodError, did_you_mean
from tunewright.models.blocks_moved import Rearranged
from tunewright.models.factored import Factored
from tunewright.models.surgery import Surgery
from tunewright.models.widening import Widened

FORMS: dict[str, type[Surgery]] = {c.form: c for c in (Rearranged, Widened, Factored)}
ENTRY_POINTS = "tunewright.surgeries"
"""The entry-point group by which the record of a third party's surgery finds its class: form's name = module:class."""


def surgery_class(form: str) -> type[Surgery]:
    """The class that does a recorded surgery again. MethodError when none is registered under its name."""
    if form in FORMS:
        return FORMS[form]
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        if point.name == form:
            cls: type[Surgery] = point.load()
            return cls
    raise MethodError(
        f"no surgery is named '{form}'",
        remedy=f"{did_you_mean(form, FORMS)} One of your own is named in the entry-point group {ENTRY_POINTS}",
    )


def check_surgery(surgery: Surgery, carried: Sequence[str]) -> None:
    """MethodError where a model carries what a change of its shape would lose, and where the surgery could not be done
    again from a file, since its form's name gives another class.
    """
    if carried:
        raise MethodError(
            f"the model carries {', '.join(carried)}, which a change of its shape would lose ({surgery.told()})",
            where="carry",
            remedy="write carry: fold, or change the shape first",
        )
    try:
        known: type[Surgery] | None = surgery_class(surgery.form)
    except MethodError:
        known = None
    if known is not type(surgery):
        said = "no class" if known is None else f"the class {known.__name__}"
        raise MethodError(
            f"the surgery '{surgery.form}' of {type(surgery).__name__} could not be done again from a file: its name "
            f"gives {said}",
            remedy=f"give it a `form` of its own, and name it in the entry-point group {ENTRY_POINTS}",
        )


def recorded(surgery: Surgery) -> dict[str, Any]:
    """A surgery as files hold it."""
    return {"form": surgery.form, "settings": surgery.settings()}


def replayed(record: Mapping[str, Any]) -> Surgery:
    """The surgery of a record."""
    return surgery_class(record["form"]).rebuild(record["settings"])
