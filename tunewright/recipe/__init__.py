"""The one file a user writes: its types, how it is read and checked, how it is written with every default.

Nothing in this room imports torch: a recipe is read, checked and written before anything heavy starts.
"""

from tunewright.recipe.parts import Budget, DataSpec, Keep, MeasureSpec, ModelSpec, Source, StreamSpec, TrainSpec
from tunewright.recipe.recipe import Recipe, StageSpec
from tunewright.recipe.uses import MethodUse

__all__ = [
    "Budget",
    "DataSpec",
    "Keep",
    "MeasureSpec",
    "MethodUse",
    "ModelSpec",
    "Recipe",
    "Source",
    "StageSpec",
    "StreamSpec",
    "TrainSpec",
]
