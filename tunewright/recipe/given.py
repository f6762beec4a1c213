"""A recipe however it is given: made in Python, a file, the name of one that ships here, or plain values."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunewright.recipe.load import parse
from tunewright.recipe.overrides import override
from tunewright.recipe.recipe import Recipe
from tunewright.recipe.yaml_text import Document

RecipeLike = Recipe | str | Path | Mapping[str, Any]


def given(recipe: RecipeLike, sets: Sequence[str] = ()) -> Recipe:
    """The recipe, with `key.path=value` overrides. RecipeError where a name or a value is not valid.

    Relative paths of plain values start from the working directory, of a file from its folder.
    """
    if isinstance(recipe, str | Path):
        return Recipe.load(recipe, sets)
    if isinstance(recipe, Recipe) and not sets:
        return recipe
    tree = recipe.model_dump(mode="python") if isinstance(recipe, Recipe) else copy.deepcopy(dict(recipe))
    document = Document(tree)
    for text in sets:
        override(document, text)
    changed: Recipe = parse(Recipe, document)
    if isinstance(recipe, Recipe):
        changed._base, changed._out = recipe.base, recipe.out
    return changed
