"""Where the rows of `keep` and `replay` are, and how kept text is encoded: the same for a run and for a check."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tunewright.contract.task import EncodeOptions
from tunewright.errors import DataError
from tunewright.recipe import DataSpec, Recipe, Source
from tunewright.recipe.naming import file_names


def kept_sources(recipe: Recipe) -> dict[str, Source]:
    """The sources of `keep`, by what each is called."""
    return {name: Source(path=k.data, limit=k.limit) for k, name in zip(recipe.keep, recipe.kept_names(), strict=True)}


def kept_options(options: EncodeOptions) -> EncodeOptions:
    """How kept rows are encoded: whole texts, as they stand."""
    return replace(options, truncation="split", template=None)


def replayed_sources(data: DataSpec, recipe: Recipe) -> Iterator[tuple[str, Source | None]]:
    """What `replay` names, and where its rows are: None for a `keep` entry. DataError where there are none."""
    keep = recipe.kept_names()
    for name, called in zip(data.replay, file_names(list(data.replay)), strict=True):
        if name in keep:
            yield name, None
        elif (recipe.base / name).exists() or name.startswith("quickstart:"):
            yield name, Source(path=name, name=called)
        else:
            raise DataError(
                f"replay names '{name}', which is neither a `keep` entry nor a file",
                where="data.replay",
                remedy=f"known: {', '.join(keep) or 'none'}; or write a path",
            )
