"""Inputs and sessions of the tests of a recipe's fields."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import small
from tunewright.recipe import Recipe
from tunewright.runs.assemble import assemble
from tunewright.runs.session import Session


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("options")
    small.write_inputs(folder)
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNEWRIGHT_CACHE", str(folder / "cache"))
        yield folder
    torch.set_num_threads(threads)


def session_of(folder: Path, name: str = "r", **changes: Any) -> Session:
    return assemble(Recipe.load(small.write_recipe(folder, name, **changes)))
