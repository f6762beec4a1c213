"""Whether a recipe's policy can play in its environments, before anything is trained."""

from __future__ import annotations

from typing import Any

from tunewright.measure.environments import WHERE
from tunewright.measure.environments import check as check_place
from tunewright.recipe import Recipe
from tunewright.tasks._policies import note


def check(recipe: Recipe, config: Any) -> None:
    """MissingExtraError without gymnasium, RecipeError for an environment that is none or cannot be made, ModelError
    for one that does not fit the policy.
    """
    places = recipe.measurement.environment or []
    if recipe.data.trajectories is not None:
        note(config, recipe.data.trajectories.model_dump(include={"action_space"}))
    for i, place in enumerate(places):
        check_place(place.model_dump(mode="json"), config, f"{WHERE}[{i}]" if len(places) > 1 else WHERE)
