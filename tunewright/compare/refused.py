"""Arms that a run would refuse before its first step are refused before any arm has run."""

from __future__ import annotations

from collections.abc import Sequence

from tunewright.compare.arms import ComparedArm, arm_recipe
from tunewright.errors import MethodError
from tunewright.planning.refusals import refused_by
from tunewright.recipe import Budget, Recipe


def check_arms(recipe: Recipe, arms: Sequence[ComparedArm], budget: Budget, *, validation: bool) -> None:
    """MethodError that names every such arm and why. Each is set up on shapes, as `tunewright check` does.

    `budget` and `validation` are those of its runs (`arm_recipe`).
    """
    found = {}
    for arm in arms:
        own = arm_recipe(recipe, arm, budget, int(recipe.train.seed), validation=validation)
        if refused := refused_by(own):
            found[arm.name] = refused[0]
    if found:
        told = "; ".join(f"{name}: {error.what}" for name, error in found.items())
        first = next(iter(found.values()))
        raise MethodError(
            f"{len(found)} of {len(arms)} arms would be refused: {told}",
            where=first.where if len(found) == 1 else "--methods" if arms[0].select is None else "--select",
            remedy=f"leave {', '.join(found)} out" + (f", or: {first.remedy}" if first.remedy else ""),
        )
