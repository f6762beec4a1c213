"""Names of what hangs on a site: "<site>.delta.<delta>.<part>". This file alone writes and reads them."""

from __future__ import annotations

from typing import NamedTuple

_MARK = ".delta."


class DeltaName(NamedTuple):
    """One parameter or buffer of a delta: the site it hangs on, the delta's name there, and its part."""

    site: str
    delta: str
    part: str

    def __str__(self) -> str:
        return f"{self.site}{_MARK}{self.delta}.{self.part}"

    @classmethod
    def parse(cls, name: str) -> DeltaName:
        """From a name in a model's state. ValueError for one that is of no delta."""
        site, mark, rest = name.rpartition(_MARK)
        delta, _, part = rest.partition(".")
        if not (site and mark and part):
            raise ValueError(f"'{name}' is no part of a delta")
        return cls(site, delta, part)


def is_delta(name: str) -> bool:
    """Whether a name in a model's state is of a delta's part."""
    return _MARK in name


def module_of(name: str) -> str:
    """The module that a parameter changes: the site of a delta's part, else the module that holds the parameter."""
    return name.split(_MARK)[0] if is_delta(name) else name.rsplit(".", 1)[0]
