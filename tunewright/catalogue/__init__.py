"""What a recipe may name, found by listing folders: nothing is imported until one is asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tunewright.catalogue.folders import (
    THIRD_PARTY,
    Entry,
    aliases,
    canonical,
    entries,
    find,
    lookup,
    metrics,
    rooms,
    tasks,
)

if TYPE_CHECKING:
    from tunewright.catalogue.parameters import Use
    from tunewright.catalogue.resolve import build, describe, load_method

__all__ = [
    "THIRD_PARTY",
    "Entry",
    "Use",
    "aliases",
    "build",
    "canonical",
    "describe",
    "entries",
    "find",
    "load_method",
    "lookup",
    "metrics",
    "rooms",
    "tasks",
]

_HOMES = {"Use": "parameters", "build": "resolve", "describe": "resolve", "load_method": "resolve"}
"""Names that need pydantic are fetched when they are asked for: listing stays light."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tunewright.catalogue' has no attribute '{name}'")
    return getattr(importlib.import_module(f"tunewright.catalogue.{_HOMES[name]}"), name)
