"""Tunewright adapts a pre-trained model with any published method and shows what it gained, lost and cost.

`tunewright.run(Recipe(...))` is the whole of it from Python. Importing the package imports nothing heavy: names are
fetched when they are asked for.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tunewright.recipe import Recipe as Recipe

__version__ = "0.1.0"
__all__ = ["Recipe", "__version__", "run"]


class _CallableModule(ModuleType):
    """`tunewright.runs.run` is a module (its parts are public) and the function of that name in it."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__dict__["run"](*args, **kwargs)


class _Package(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        # The import system sets a submodule on its package: the moment to make this one callable.
        if name == "run" and isinstance(value, ModuleType):
            value.__class__ = _CallableModule
        super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        if name == "run":
            return importlib.import_module("tunewright.runs.run")
        if name == "Recipe":
            return importlib.import_module("tunewright.recipe").Recipe
        raise AttributeError(f"module 'tunewright' has no attribute '{name}'")


sys.modules[__name__].__class__ = _Package
