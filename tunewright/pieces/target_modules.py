"""Which layers a method changes, and numbers that differ by layer.

Names follow PEFT: a target or pattern is a module's full name or an ending of it after a dot ("q_proj",
"layers.0.mlp.up_proj"). `Structure.match` turns them into sites.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from tunewright.errors import MethodError, did_you_mean
from tunewright.models.sites import Site, Structure

Number = TypeVar("Number", int, float)
TARGET_MODULES = (
    "which linear layers: all-linear (every one inside the blocks, never the head), or module names or endings of them"
)
"""Description of a field `target_modules`: str | tuple[str, ...]."""


def with_convolutions(structure: Structure) -> list[Site]:
    """What `target_modules: all` means: linear layers as by all-linear, and every convolution inside the blocks."""
    linear = {s.name for s in structure.linear_sites()}
    return [s for s in structure.sites if s.name in linear or (s.kind == "conv" and s.block is not None)]


def named_by(pattern: str, name: str) -> bool:
    """Whether `pattern` is a module's name or an ending of it after a dot."""
    return name == pattern or name.endswith("." + pattern)


def by_pattern(patterns: Mapping[str, Number], name: str, default: Number) -> Number:
    """The value of the first pattern that names the module, else the default."""
    return next((value for pattern, value in patterns.items() if named_by(pattern, name)), default)


def check_patterns(patterns: Iterable[str], names: Iterable[str], where: str) -> None:
    """Raise MethodError, at the fields `where`, for a pattern that names none of the targeted modules `names`."""
    targeted = list(names)
    for pattern in patterns:
        if not any(named_by(pattern, n) for n in targeted):
            endings = sorted({n.rsplit(".", 1)[-1] for n in targeted})
            raise MethodError(
                f"the pattern '{pattern}' names no targeted module",
                where=where,
                remedy=did_you_mean(pattern, endings),
            )
