"""What low-rank adapters share: which sites are targeted, and numbers that differ by module.

Names follow PEFT: a target or pattern is a module's full name or an ending of it after a dot ("q_proj",
"layers.0.mlp.up_proj").
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from tunewright.contract.method import Setup, State
from tunewright.errors import MethodError, did_you_mean
from tunewright.models.sites import Site

Number = TypeVar("Number", int, float)
TARGETS = (
    "which linear layers: all-linear (every one inside the blocks, never the head), or module names or endings of them"
)


def named_by(pattern: str, name: str) -> bool:
    """Whether `pattern` is a module's name or an ending of it after a dot."""
    return name == pattern or name.endswith("." + pattern)


def by_pattern(patterns: Mapping[str, Number], name: str, default: Number) -> Number:
    """The value of the first pattern that names the module, else the default."""
    return next((value for pattern, value in patterns.items() if named_by(pattern, name)), default)


def state_of_targets(
    run: Setup, targets: str | tuple[str, ...], *patterns: Mapping[str, int] | Mapping[str, float]
) -> State:
    """A state that remembers the targeted sites' names.

    Raises MethodError for a target that names no module, and for a pattern that names no targeted one.
    """
    names = [s.name for s in run.structure.match(targets if isinstance(targets, str) else list(targets))]
    for pattern in (p for group in patterns for p in group):
        if not any(named_by(pattern, n) for n in names):
            endings = sorted({n.rsplit(".", 1)[-1] for n in names})
            raise MethodError(
                f"the pattern '{pattern}' names no targeted module",
                where="rank_pattern, alpha_pattern",
                remedy=did_you_mean(pattern, endings),
            )
    return State(sites=names)


def targeted(state: State, site: Site) -> bool:
    """Whether `state_of_targets` chose the site."""
    return site.name in state.data["sites"]
