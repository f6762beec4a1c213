"""Merges as a recipe names them under `after:`, and what is refused of one before anything is trained."""

from __future__ import annotations

from typing import Any

from tunewright import catalogue
from tunewright.errors import MethodError
from tunewright.recipe import MethodUse, Recipe
from tunewright.training import carry
from tunewright.weights.operator import as_merge, check_count

BASE = "base"


def check(use: MethodUse, recipe: Recipe) -> None:
    """Raise MethodError where a merge has no other model, too many, or none to choose by; and what `carry.result_of`
    raises of the folders that it names. Edits are passed over.
    """
    given = catalogue.build(use)
    if callable(getattr(given, "edit", None)):
        return
    method = as_merge(given, use.name)
    check_others(method, use.name)
    if method.picks and recipe.data.validation is None:
        raise no_score(use.name)
    stages = [f"stages.{s.name}" for s in recipe.stages]
    for of in method.of:
        if of.startswith("stages."):
            if of not in stages:
                raise MethodError(
                    f"'{use.name}' merges with '{of}', and the recipe has no such stage",
                    where=use.place or "after",
                    remedy="its stages: " + ", ".join(stages),
                )
        elif of != BASE:
            carry.result_of(carry.seen_from(recipe.base, of), f"after.{use.name}")


def check_others(method: Any, name: str) -> None:
    """MethodError where a merge names no other model, or another number than it takes."""
    if not method.of:
        raise MethodError(
            f"'{name}' names no other model", where="after", remedy=f"write {name}: {{of: [stages.first, runs/other]}}"
        )
    check_count(method, name, 1 + len(method.of), True)


def no_score(name: str) -> MethodError:
    """What is wrong with a merge that chooses where nothing is held out."""
    return MethodError(
        f"'{name}' chooses by a held-out score, and the recipe holds nothing out",
        where="data.validation",
        remedy="write validation: 10%",
    )


def unfoldable(name: str) -> MethodError:
    """What is wrong with a step after training where the change is none of plain weights."""
    return MethodError(
        f"'{name}' works on plain weights, and this change cannot be folded into them",
        where="after",
        remedy="take the step out, or use a method that folds",
    )
