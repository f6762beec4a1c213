"""Tunes a recipe's file and writes the winning values: into a copy beside it, into itself, or anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tunewright.errors import FolderError, RecipeError
from tunewright.files.checkpoint import write_text
from tunewright.recipe import Recipe
from tunewright.recipe.given import RecipeLike, given
from tunewright.recipe.load import locate
from tunewright.recipe.rewrite import beside, rewritten
from tunewright.trials.tune import Say, TuneResult, tune


def tune_recipe(
    recipe: RecipeLike, *, write: bool = False, out: Path | None = None, sets: Sequence[str] = (), say: Say, **how: Any
) -> TuneResult:
    """`tune`, and its winner as a recipe's file; nothing is written where the recipe's own values are the best.

    `out`: that file; none: RECIPE.tuned.yaml beside RECIPE (in the working directory for one that ships with the
    package; nowhere for one made in Python). `write`: into RECIPE itself. RecipeError where that is no file.
    """
    file = locate(recipe) if isinstance(recipe, str | Path) else None
    own = file is not None and file == Path(str(recipe))
    if write and not own:
        raise RecipeError(
            "there is no file to write the values into", where="--write", remedy="write --out FILE instead"
        )
    if write and out is not None:
        raise RecipeError("--write and --out both say where to write", where="--write", remedy="keep one of them")
    loaded = given(recipe, sets)
    result = tune(loaded, say=say, **how)
    target = out if out is not None else file if write else None
    if target is None and file is not None:
        target = beside(file) if own else Path(beside(file).name)
    if not result.changed or target is None:
        return result
    _put(target, _text(file, target, loaded, result))
    return replace(result, written=target)


def _text(file: Path | None, target: Path, loaded: Recipe, result: TuneResult) -> str:
    """The recipe's text with the winner's values; in another folder, and made in Python, with paths from the root."""
    values = {tuple(path.split(".")): value for path, value in result.changed.items()}
    if file is not None and file.resolve().parent == target.resolve().parent:
        return rewritten(file.read_text(encoding="utf-8"), values, str(file))
    return rewritten(loaded.dump(absolute=True), values)


def _put(target: Path, text: str) -> None:
    try:
        write_text(target, text)
    except OSError as e:
        raise FolderError(
            f"the tuned recipe cannot be written: {e.strerror or e}", where=str(target), remedy="choose another --out"
        ) from e
    Recipe.load(target)
