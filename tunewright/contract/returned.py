"""What a method's slot function gave back, checked where it comes back: one message, and no error further on."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from typing import Any

import torch

from tunewright.contract.slot import SLOTS
from tunewright.errors import MethodError

Check = Callable[[Any, Mapping[str, Any]], str]
"""(what came, what was offered) -> what is wrong with it, "" where nothing is."""


def _kind(*names: str) -> Check:
    """One of the classes of these names, or of one below: what a room further down defines is not imported here."""

    def check(value: Any, offered: Mapping[str, Any]) -> str:
        return "" if any(c.__name__ in names for c in type(value).__mro__) else told(value)

    return check


def _several(*names: str) -> Check:
    """Such a one, or a list or tuple of them."""
    one = _kind(*names)

    def check(value: Any, offered: Mapping[str, Any]) -> str:
        if not isinstance(value, list | tuple):
            return one(value, offered)
        wrong = next((v for v in value if one(v, offered)), _NOTHING)
        return "" if wrong is _NOTHING else f"{told(value)} with {told(wrong)} in it"

    return check


def _listed(value: Any, offered: Mapping[str, Any]) -> str:
    """What has one item after the other."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        return told(value)
    return "a tensor without items" if isinstance(value, torch.Tensor) and value.dim() == 0 else ""


def _mapped(of: Callable[[Any], bool], like: str = "") -> Check:
    """A mapping from texts to what `of` holds of. `like`: the offered mapping whose names and shapes it may have."""

    def check(value: Any, offered: Mapping[str, Any]) -> str:
        if not isinstance(value, Mapping):
            return told(value)
        known = offered.get(like)
        for name, one in value.items():
            if not isinstance(name, str) or not of(one):
                return f"{told(value)} with {told(one)} for {name!r}"
            if known is not None and name not in known:
                return f"{told(value)} with an entry for {name!r}, of which none was offered"
            if known is not None and one.shape != known[name].shape:
                return f"{told(value)} with {told(one)} for {name!r}, whose shape is {list(known[name].shape)}"
        return ""

    return check


def _all_of(like: str) -> Check:
    """The same, with an entry for every name of what was offered."""
    some = _mapped(_tensor, like)

    def check(value: Any, offered: Mapping[str, Any]) -> str:
        missing = [] if some(value, offered) else [n for n in offered[like] if n not in value]
        return some(value, offered) or (f"{told(value)} without an entry for {missing[0]!r}" if missing else "")

    return check


def _loss(value: Any, offered: Mapping[str, Any]) -> str:
    if wrong := _kind("Loss")(value, offered):
        return wrong
    if not _tensor(value.value):
        return f"a Loss whose value is {told(value.value)}"
    good = value.weight is None or _tensor(value.weight) or number(value.weight)
    return "" if good else f"a Loss whose weight is {told(value.weight)}"


def _choice(value: Any, offered: Mapping[str, Any]) -> str:
    if wrong := _kind("Choice")(value, offered):
        return wrong
    names, every = value.names, value.redraw_every
    if _listed(names, offered) or not all(isinstance(n, str) for n in names):
        return f"a Choice whose names are {told(names)}"
    if every is not None and (not isinstance(every, int) or every < 1):
        return f"a Choice whose redraw_every is {told(every)}"
    wrong = _mapped(_tensor)(value.entries, offered)
    return f"a Choice whose entries are {wrong}" if wrong else ""


def _rollout(value: Any, offered: Mapping[str, Any]) -> str:
    if wrong := _kind("Rollout")(value, offered):
        return wrong
    if not isinstance(value.reuse, int) or value.reuse < 1:
        return f"a Rollout whose reuse is {told(value.reuse)}"
    if not isinstance(value.rows, list | tuple):
        return f"a Rollout whose rows are {told(value.rows)}"
    last = len(offered.get("prompts", ())) - 1
    for one in value.rows:
        if not isinstance(one, tuple | list) or len(one) != 2 or not isinstance(one[0], int):
            return f"a Rollout with {told(one)} among its rows"
        if _kind("Row")(one[1], offered) or not 0 <= one[0] <= last:
            return f"a Rollout with {told(one[1])} for prompt {one[0]} of {last + 1} among its rows"
    return ""


def _scalar(value: Any, offered: Mapping[str, Any]) -> str:
    return "" if _tensor(value) and value.numel() == 1 else told(value)


def _factor(value: Any, offered: Mapping[str, Any]) -> str:
    return "" if number(value) else _mapped(number)(value, offered)


def _none(check: Check) -> Check:
    return lambda value, offered: "" if value is None else check(value, offered)


def _tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


def number(value: Any) -> bool:
    """Whether a value is one finite number, as Python, numpy or torch has them."""
    if isinstance(value, torch.Tensor) or not isinstance(value, Real):
        return _tensor(value) and value.numel() == 1 and bool(torch.isfinite(value).all())
    return math.isfinite(value)


def _numeric(value: Any) -> bool:
    """The same, or one that is not finite."""
    return number(value) or isinstance(value, Real)


_NOTHING = object()
_tensors: Check = _kind("Tensor")
CHECKS: dict[str, Check] = {
    "prepare": _none(_several("Surgery")),
    "attach": _none(_kind("Module")),
    "wrap": _kind("Module"),
    "choose": _choice,
    "batch": _none(_kind("Batch")),
    "rollout": _rollout,
    "reward": _listed,
    "objective": _loss,
    "penalty": _scalar,
    "gradient": _none(_mapped(_tensor, "parameters")),
    "optimizer": _several("Optimizer"),
    "rates": _mapped(_numeric),
    "update": _none(_all_of("changes")),
    "schedule": _factor,
    "mixture": _none(_mapped(number)),
    "average": _mapped(_tensor),
    "synthesize": _listed,
    "select": lambda value, offered: "" if not _kind("Selected")(value, offered) else _listed(value, offered),
    "merge": _tensors,
    "edit": _tensors,
    "predict": _tensors,
    "adapt": _tensors,
    "probe": _kind("ProbeResult"),
}
"""By slot; slots that only tell a method of something take nothing back. Changed records and rows, and what else is
owed (counts, values), are checked where they are used, with the row that they are of.
"""


def check_returned(cls: type, slot: str, value: Any, named: str = "", offered: Mapping[str, Any] | None = None) -> None:
    """MethodError where a method of class `cls`, called `named` in the recipe, gave what its slot does not take."""
    check = CHECKS.get(slot)
    wrong = check(value, offered or {}) if check is not None else ""
    if wrong:
        raise MethodError(
            f"'{named or cls.__name__}' gave {wrong} on the slot '{slot}'",
            where=place(cls, slot),
            remedy=f"return {SLOTS[slot].gives}",
        )


def place(cls: type, function: str) -> str:
    """file:line of a method's function, or its name where its text is not at hand."""
    try:
        found = getattr(cls, function)
        return f"{inspect.getsourcefile(found)}:{inspect.getsourcelines(found)[1]}"
    except (OSError, TypeError):
        return f"{cls.__name__}.{function}"


def told(value: Any) -> str:
    """A value in a few words: what kind it is, and itself where that is short."""
    if value is None or isinstance(value, bool | int | float):
        return str(value)
    if isinstance(value, str):
        return f"the text {value[:40]!r}"
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {list(value.shape)}"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"
