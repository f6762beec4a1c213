"""From a lab task's recipe to an arm's: mappings laid over each other, methods and budget put where they belong."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from tunewright.recipe.overrides import RENAMED

DECLARED: Mapping[str, Any] = {"learning_rate": 2e-4, "batch_tokens": 16_000, "warmup_steps": 0.03}
"""Defaults of `train` when the claims were declared."""


def todays(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe, or a part of one, under today's names of its keys."""
    return {RENAMED.get(key, key): value for key, value in recipe.items()}


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid on `under`; neither is changed.

    Mappings merge key by key; lists of named mappings (stages) by name; all else is replaced.
    """
    out = copy.deepcopy(dict(under))
    for key, value in over.items():
        below = out.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            out[key] = merged(below, value)
        elif _named(value) and _named(below):
            by_name: dict[str, Any] = {item["name"]: item for item in below or ()}
            for item in value:
                by_name[item["name"]] = merged(by_name.get(item["name"], {}), item)
            out[key] = list(by_name.values())
        else:
            out[key] = copy.deepcopy(value)
    return out


def _named(value: Any) -> bool:
    return (
        isinstance(value, list) and bool(value) and all(isinstance(item, Mapping) and "name" in item for item in value)
    )


def with_methods(
    recipe: Mapping[str, Any], methods: list[Any], budget: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The recipe with an arm's methods: at its top, or in each stage that names none.

    `budget` replaces every budget that is written; one at the top is that of the stages that have none. Where the
    recipe does not say, what is longer than `max_length` is left out, a classifier's new head is drawn at random, and
    rate, batch, warm-up and length of training are what was the default when the claims were declared.
    """
    out = copy.deepcopy(dict(recipe))
    out["train"] = {**DECLARED, **out.get("train", {})}
    if out.get("task") in ("text-classification", "image-classification"):
        out["train"].setdefault("head", "random")
    for place in (out, *out.get("stages", ())):
        if isinstance(place.get("data"), Mapping) and "max_length" in place["data"]:
            place["data"].setdefault("truncation", "drop")
    common = out.pop("budget", None) if "stages" in out else None
    for place in out.get("stages", [out]):
        place.setdefault("methods", copy.deepcopy(methods))
        if budget is not None:
            place["budget"] = dict(budget)
        elif common is not None:
            place.setdefault("budget", common)
        place.setdefault("budget", {"epochs": 1})
    return out
