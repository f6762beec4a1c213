"""What a recipe cannot do in float16: gradients that a method takes by itself, whose losses nothing scales."""

from __future__ import annotations

from tunewright import catalogue
from tunewright.errors import MethodError
from tunewright.recipe import MethodUse, Recipe

HALF = "float16"


def check_halved(recipe: Recipe) -> None:
    """MethodError for a method that asks for gradients beside the loop's own, where weights are held in float16."""
    dtype = str(recipe.model.dtype)
    where = "train.precision" if dtype == "auto" else "model.dtype"
    if (recipe.train.precision if dtype == "auto" else dtype) != HALF:
        return
    uses: list[MethodUse] = [u for s in recipe.stages for u in (*s.methods, *recipe.data_for(s).select)]
    uses += [*recipe.after, *(recipe.test_time.adapt if recipe.test_time is not None else [])]
    for use in uses:
        method = catalogue.build(use)
        if method.takes_gradients or any(need.takes_gradients for need in method.needs()):
            raise MethodError(
                f"'{use.name}' takes gradients by itself, and small ones vanish in {HALF}, where only the losses of "
                "training are scaled",
                where=use.place or where,
                remedy=f"write {where}: bfloat16 or float32",
            )
