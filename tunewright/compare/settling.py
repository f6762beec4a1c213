"""What a comparison's recipe leaves to the rule (`training/defaults.py`): one batch, warm-up and budget for all arms,
so that all see the same rows in the same order, and for each arm the rate that its own methods name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tunewright.compare.arms import ComparedArm, arm_recipe
from tunewright.recipe import Budget, Recipe
from tunewright.runs.assemble import settled


def settle(recipe: Recipe, arms: Sequence[ComparedArm], budget: Budget) -> tuple[Recipe, Budget, Mapping[str, float]]:
    """(the recipe with batch and warm-up, the budget of each run, each arm's rate). A recipe that says them is left."""
    train = recipe.train
    whole = recipe
    if train.batch_tokens is None or train.warmup_steps is None or not budget.limited:
        whole = settled(recipe)[0]
        said = whole.train_for(whole.stages[0])
        kept = recipe.model_copy(deep=True)
        kept._base, kept._out, kept._notes = recipe._base, recipe._out, recipe._notes
        kept.train = train.model_copy(update={"batch_tokens": said.batch_tokens, "warmup_steps": said.warmup_steps})
        recipe = kept
    budget = budget if budget.limited else whole.stages[0].budget
    seed = int(train.seed)
    rates = {arm.name: _rate(arm_recipe(recipe, arm, budget, seed)) for arm in arms}
    return recipe, budget, rates


def _rate(recipe: Recipe) -> float:
    """The learning rate of an arm's runs."""
    rate = recipe.train.learning_rate
    if rate is None:
        whole = settled(recipe)[0]
        rate = whole.train_for(whole.stages[0]).learning_rate  # of several stages the rule writes it into each
    assert rate is not None
    return rate
