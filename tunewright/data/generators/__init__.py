"""Rows that no file holds: each module here makes them, the same ones for the same parameters.

A recipe names one as a source, `path: make:NAME`, with its `parameters`. A generator is a class `Rows` whose fields are
these parameters; everything that it draws comes from its own seed, so that rows are made again alike anywhere.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError

from tunewright.errors import DataError, did_you_mean

MADE = "make:"
"""How the path of a source begins whose rows are made."""


class Generator(BaseModel):
    """What makes rows: at least how many, and from which seed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows: PositiveInt = Field(4096, description="rows that are made")
    seed: NonNegativeInt = Field(0, description="of everything that is drawn")

    def make(self) -> Iterator[Mapping[str, Any]]:
        """The rows in order, one at a time: columns as a file's row has them."""
        raise NotImplementedError

    @property
    def key(self) -> str:
        """A hash of what decides the rows: the parameters and the code."""
        file = Path(str(importlib.import_module(type(self).__module__).__file__))
        return hashlib.sha256(self.model_dump_json().encode() + file.read_bytes()).hexdigest()


def names() -> list[str]:
    """The generators that there are."""
    return sorted(f.stem.replace("_", "-") for f in Path(__file__).parent.glob("*.py") if f.stem[0] != "_")


def module_of(name: str) -> ModuleType:
    """The module of a generator that there is."""
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}")


def generator(path: str, parameters: Mapping[str, Any] | None) -> Generator:
    """The generator of a source. DataError for a name or a parameter that is not there, or a value that is wrong."""
    name = path.removeprefix(MADE)
    if name not in names():
        raise DataError(
            f"no rows are made by '{name}'", where=path, remedy=did_you_mean(path, [f"{MADE}{n}" for n in names()])
        )
    kind = module_of(name).Rows
    try:
        made: Generator = kind(**(parameters or {}))
        return made
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "parameters"
        unknown = first["type"] == "extra_forbidden"
        raise DataError(
            f"there is no parameter '{field}'" if unknown else f"{field}: {first['msg']}",
            where=f"{path}, parameters",
            remedy=did_you_mean(field, kind.model_fields) if unknown else f"got {str(first['input'])[:60]!r}",
        ) from None
