"""What becomes of the deltas that a task of a sequence starts with, where the recipe leaves it to the methods."""

from __future__ import annotations

from collections.abc import Sequence

from tunewright.contract.method import Method
from tunewright.errors import RecipeError
from tunewright.recipe import Recipe


def carried(recipe: Recipe, methods: Sequence[Sequence[tuple[str, Method]]]) -> Recipe:
    """The recipe with `carry` as its methods ask (`Method.carries`), in every stage of a sequence that does not say it.
    `methods`: of each stage, by the names that they are used under.

    RecipeError where two methods ask for different things: one of them would be refused later, in another's name.
    """
    sequence = recipe.sequence
    if sequence is None or sequence.carry is not None:
        return recipe
    asked = {m.carries: use for named in methods for use, m in named if m.carries is not None}
    if len(asked) > 1:
        words = " and ".join(f"{use} {carry}" for carry, use in sorted(asked.items()))
        raise RecipeError(
            f"two methods of a sequence ask for another carry: {words}",
            where="tasks.carry",
            remedy="keep one of the two, or write the carry that both are to have",
        )
    carry = next(iter(asked), "fold")
    told = recipe.model_copy(update={"sequence": sequence.model_copy(update={"carry": carry})})
    told.stages = [stage.model_copy(update={"carry": carry}) for stage in recipe.stages]
    told._base, told._out, told._notes = recipe._base, recipe._out, recipe._notes
    return told
