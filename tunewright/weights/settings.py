"""Parameters of a merge as mergekit writes them: numbers, gradients over layers, and values by part of a tensor's name.

A setting is a plain value; a list of values, which runs from the first layer to the last (numbers are interpolated); or
a list of {filter, value}, of which the first counts whose filter is in the tensor's name ("*" or none: every name).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tunewright.errors import RecipeError

Setting = Any


def resolve(setting: Setting, name: str, place: float) -> Any:
    """The value for one tensor, None where no filter fits; `place` runs from 0 (first layer) to 1 (last)."""
    if isinstance(setting, Mapping):
        setting = [setting]
    if not isinstance(setting, list | tuple):
        return setting
    if not any(isinstance(s, Mapping) for s in setting):
        scaled = place * (len(setting) - 1)
        low = int(scaled)
        if not all(isinstance(s, int | float) and not isinstance(s, bool) for s in setting):
            return setting[low]
        high, share = min(len(setting) - 1, low + 1), scaled - low
        return (1 - share) * setting[low] + share * setting[high] if share else setting[low]
    for s in setting:
        if s.get("filter") in (None, "*") or s["filter"] in name:
            return resolve(s["value"], name, place)
    return None


def values_of(setting: Setting, where: str) -> Iterable[Any]:
    """Every plain value in a setting, for validation. RecipeError for an empty list or a malformed one."""
    if isinstance(setting, Mapping):
        setting = [setting]
    if not isinstance(setting, list | tuple):
        yield setting
        return
    if not setting:
        raise RecipeError("an empty list", where=where, remedy="write a value, or leave the parameter out")
    mixed = {isinstance(s, Mapping) for s in setting}
    if len(mixed) > 1:
        raise RecipeError(
            "plain values and {filter, value} in one list", where=where, remedy="write the last one as {value: ...}"
        )
    for s in setting:
        if isinstance(s, Mapping):
            named = isinstance(s.get("filter"), str | None)
            if "value" not in s or not named or not s.keys() <= {"filter", "value"}:
                raise RecipeError(
                    f"{dict(s)} is no {{filter, value}}", where=where, remedy="write {filter: self_attn, value: 0.5}"
                )
            yield from values_of(s["value"], where)
        elif isinstance(s, list | tuple):
            raise RecipeError(f"a list in a list: {list(s)}", where=where, remedy="write values: [0, 0.5, 1]")
        else:
            yield s


def mapped(setting: Setting, function: Callable[[Any], Any]) -> Setting:
    """The same setting with another value in the place of every plain one."""
    if isinstance(setting, Mapping):
        return {**setting, "value": mapped(setting["value"], function)}
    if isinstance(setting, list | tuple):
        return [mapped(s, function) for s in setting]
    return function(setting)


def chained(*scopes: Mapping[str, Setting]) -> dict[str, Setting]:
    """Settings of several scopes by name, the nearest first: where no filter of one fits, the next one's are tried."""
    out: dict[str, Setting] = {}
    for scope in scopes:
        for name, setting in scope.items():
            out[name] = _first_of(out[name], setting) if name in out else setting
    return out


def _first_of(near: Setting, far: Setting) -> Setting:
    """One setting that gives `far` where no filter of `near` fits."""
    first, second = ([s] if isinstance(s, Mapping) else s for s in (near, far))
    if not isinstance(first, list) or not first or not all(isinstance(s, Mapping) for s in first):
        return near
    if any(s.get("filter") in (None, "*") for s in first):
        return near
    conditions = isinstance(second, list) and second and all(isinstance(s, Mapping) for s in second)
    return [*first, *(second if conditions else [{"value": second}])]


class Depths:
    """Where tensors lie: `depth` 0..1 inside a stack of blocks (None outside), `place` 0..1 for gradients (before:
    0, after: 1). `mergekit`: the place is 0 behind the blocks too, and 1 for a block that is alone, as in its files.
    """

    def __init__(self, names: Sequence[str], mergekit: bool = False):
        self._mergekit = mergekit
        self._last: dict[str, int] = {}
        for n in names:
            if (block := self._block(n)) is not None:
                stack, index = block
                self._last[stack] = max(self._last.get(stack, 0), index)

    @staticmethod
    def _block(name: str) -> tuple[str, int] | None:
        match = re.match(r"(?:(.*?)\.)?(\d+)\.", name)
        return (match[1] or "", int(match[2])) if match else None

    def depth(self, name: str) -> float | None:
        block = self._block(name)
        if block is None:
            return None
        return block[1] / self._last[block[0]] if self._last[block[0]] else 0.0

    def place(self, name: str) -> float:
        depth = self.depth(name)
        if self._mergekit and (block := self._block(name)) is not None and not self._last[block[0]]:
            return 1.0
        if depth is not None or self._mergekit:
            return depth or 0.0
        return 0.0 if "embed" in name or "wte" in name or "wpe" in name else 1.0
