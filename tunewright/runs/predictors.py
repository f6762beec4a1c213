"""Predictors as a recipe names them: methods under `after:` that change how a tuned model decodes, and no weights."""

from __future__ import annotations

from typing import Any

from tunewright import catalogue
from tunewright.contract.combining import check_serves
from tunewright.contract.slot import TRAINING_SLOTS
from tunewright.errors import MethodError
from tunewright.recipe import MethodUse, Recipe
from tunewright.runs.sources import task_for

OWN = ("tuned", "base")


def predicts(use: MethodUse) -> bool:
    """Whether a step under `after` is a predictor. One that also trains drives its own `predict` in its stage."""
    slots = catalogue.load_method(use.name).slots()
    return "predict" in slots and not set(slots) & set(TRAINING_SLOTS)


def check(recipe: Recipe) -> None:
    """Refuse before anything is loaded: steps in a wrong order, a task that is not served, models that are not named.

    Raises MethodError.
    """
    kinds = [predicts(use) for use in recipe.after]
    if kinds != sorted(kinds):
        late = recipe.after[len(kinds) - 1 - kinds[::-1].index(False)]
        raise MethodError(
            f"'{late.name}' changes weights after a predictor", where="after", remedy=f"write {late.name} before it"
        )
    for use in filter(predicts, recipe.after):
        method: Any = catalogue.build(use)
        if not method.speakers():
            raise MethodError(
                f"'{use.name}' predicts and names no speakers",
                where="after",
                remedy='define speakers(self): return ("tuned", ...)',
            )
        check_serves(use.name, method, task_for(recipe), "after")
        for name in others(method):
            if name not in recipe.models:
                what = f"'{use.name}' decodes with the model '{name}', and the recipe names none"
                raise MethodError(what, where="models", remedy=f"write models: {{{name}: ./folder-or-hub-id}}")


def others(method: Any) -> list[str]:
    """Names of the recipe's models that a predictor asks."""
    return [name for name in method.speakers() if name not in OWN]
