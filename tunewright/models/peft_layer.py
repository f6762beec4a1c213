"""One layer's part of a PEFT adapter, and what a type of adapter is: how its layers become deltas, and the way back."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tunewright.errors import ModelError
from tunewright.models.delta_forms import Delta
from tunewright.models.peft_settings import by_pattern, check_names, refuse_more


@dataclass(frozen=True)
class Layer:
    """One layer's part of an adapter: its tensors by part, in fp32, and what the file says of all layers."""

    name: str
    inputs: int
    outputs: int
    parts: Mapping[str, Tensor]
    config: Mapping[str, Any]
    shared: Mapping[str, Tensor]
    where: str

    def take(self, part: str, *shape: int) -> Tensor:
        """A part of this shape. ModelError where it is missing or has another."""
        if part not in self.parts:
            raise ModelError(
                f"'{self.name}' has no {part}, which the adapter's type and settings ask for",
                where=self.where,
                remedy="the file is incomplete: save or download it again",
            )
        t = self.parts[part]
        if tuple(t.shape) != shape:
            raise ModelError(
                f"'{self.name}' does not fit: {part} {tuple(t.shape)}, expected {shape}",
                where=self.where,
                remedy="load the base that the adapter was made for, with the settings that it was saved with",
            )
        return t

    def setting(self, name: str, default: Any) -> Any:
        """r or alpha of this layer, by its pattern. ModelError for what is none."""
        own = {"r": "rank_pattern", "alpha": "alpha_pattern"}[name]
        value = self.config.get(name)
        value = by_pattern(self.config.get(own) or {}, self.name, default if value is None else value)
        kind = int if name == "r" else int | float
        if not isinstance(value, kind) or isinstance(value, bool) or not 0 < value < float("inf"):
            raise ModelError(
                f"{name}: {json.dumps(value)[:80]} is no value of this setting",
                where=self.where,
                remedy="save or download the adapter again",
            )
        return value


@dataclass(frozen=True)
class Kind:
    """A type of PEFT's whose layers become deltas of `forms`. `parts`: endings of keys; `shared`: keys of all layers;
    `whole`: the part of a key behind a module whose tensors stand in the place of the model's own. A type without forms
    is read as plain low-rank changes, or whole.

    `obstacle` says why some deltas cannot be written (""), `transposed` whether PEFT hangs it on GPT-2's layers too.
    """

    name: str
    forms: tuple[type[Delta], ...]
    parts: tuple[str, ...]
    followed: frozenset[str]
    read: Callable[[Layer], Delta] | None = None
    write: Callable[[Any], dict[str, Tensor]] = lambda _: {}
    config: Callable[[Mapping[str, Any]], dict[str, Any]] = lambda _: {}
    shared: tuple[str, ...] = ()
    write_shared: Callable[[Mapping[str, Any]], dict[str, Tensor]] = lambda _: {}
    obstacle: Callable[[Mapping[str, Any]], str] = lambda _: ""
    transposed: bool = True
    whole: str = ""
    checked: Callable[[dict[str, Any], str], None] = check_names

    def check(self, config: dict[str, Any], where: str) -> None:
        """ModelError for settings by which the change is another one, or whose values PEFT would not take either."""
        self.checked(config, where)
        refuse_more(config, where, self.followed, f"what {self.name} is read as")

    def place(self, key: str) -> tuple[str, str] | None:
        """(module, part) of a key; None for one that is no part of such an adapter."""
        if self.read is None:
            return None
        ends = "|".join(self.parts)
        found = re.fullmatch(rf"base_model\.model\.(.+)\.({ends})(\.weight)?", key)
        return None if found is None else (found[1], found[2])

    def whole_name(self, key: str) -> str | None:
        """The model's own name of a tensor that the adapter holds whole; None for any other key."""
        found = re.fullmatch(rf"base_model\.model\.(.+)\.{self.whole}(\..+)", key) if self.whole else None
        return None if found is None else found[1] + found[2]


COMMON = frozenset("exclude_modules fan_in_fan_out layers_to_transform modules_to_save target_modules bias".split())


def alike(deltas: Mapping[str, Any], *names: str) -> str:
    """ "" where all deltas have the same values of these attributes."""
    odd = [n for n in names if len({repr(getattr(d, n)) for d in deltas.values()}) > 1]
    return f"layers differ in {odd[0]}, and PEFT has one for all" if odd else ""
