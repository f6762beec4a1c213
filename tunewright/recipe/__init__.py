"""The one file a user writes: its types, how it is read and checked, how it is written with every default.

Nothing in this room imports torch: a recipe is read, checked and written before anything heavy starts.
"""

from tunewright.recipe.data_spec import DataSpec, Keep
from tunewright.recipe.measure_spec import MeasureSpec, StreamSpec
from tunewright.recipe.models import ModelSpec
from tunewright.recipe.recipe import Recipe, StageSpec
from tunewright.recipe.source import Source
from tunewright.recipe.train_spec import Budget, TrainSpec
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
