"""What other installed packages add: their entry points, read by name. Nothing is imported until one is asked for.

A package names its pieces in groups (`GROUPS`), as it does its methods in "tunewright.methods". A name that cannot be
used (it is taken, or its module is broken) is refused where it is asked for, and stands in nobody else's way.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import os
import traceback
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewright.errors import MethodError, did_you_mean

TASKS, SHAPES, METRICS, CLAIMS = (f"tunewright.{kind}" for kind in ("tasks", "shapes", "metrics", "claims"))
GROUPS = (TASKS, SHAPES, METRICS, CLAIMS)
_PACKAGE = Path(__file__).parents[1]


@dataclass(frozen=True)
class Point:
    """One entry point: its group and name, the module and attribute that it names ("" where it names a module alone),
    and the distribution that it comes from. `clash`: the distribution that has taken its name, too.
    """

    group: str
    name: str
    module: str
    attribute: str
    distribution: str
    version: str
    clash: str = ""

    @property
    def kind(self) -> str:
        """ "task", "shape", "metric" or "claim"."""
        return self.group.rpartition(".")[2].removesuffix("s")

    @property
    def comes_from(self) -> str:
        """The distribution with its version, as a report names it."""
        return f"{self.distribution} {self.version}".strip()

    @property
    def file(self) -> Path | None:
        """The module's file, found without importing it; none where there is no such file."""
        try:
            spec = importlib.util.find_spec(self.module)
        except (ImportError, ValueError):
            return None
        return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None

    def files(self) -> tuple[Path, ...]:
        """Its code: every Python file of the package that the module lies in, or the one file of a plain module."""
        file = self.file
        if file is None:
            return ()
        folder = file.parent
        for _ in range(self.module.count(".") - (file.name != "__init__.py")):
            folder = folder.parent
        within = "." in self.module or file.name == "__init__.py"
        return tuple(sorted(folder.rglob("*.py"))) if within else (file,)

    def load(self, own: Collection[str] = ()) -> Any:
        """What the entry point names. `own`: names of the kind that Tunewright has itself.

        MethodError, in one message, where the name is taken, or the module or the attribute is not to be had.
        """
        if self.name in own or self.clash:
            by = self.clash or "Tunewright itself"
            raise MethodError(
                f"the entry point '{self.name}' of {self.comes_from} takes a {self.kind}'s name that {by} has",
                where=f"entry point group {self.group}",
                remedy="give it another name, or take the package out",
            )
        try:
            module = importlib.import_module(self.module)
        except Exception as error:
            raise self._broken(error) from error
        if not self.attribute:
            return module
        found: Any = module
        for part in self.attribute.split("."):
            if not hasattr(found, part):
                raise MethodError(
                    f"the {self.kind} '{self.name}' of {self.comes_from}: {self.module} has no '{part}'",
                    where=str(getattr(module, "__file__", self.module)),
                    remedy=did_you_mean(part, [n for n in vars(found) if not n.startswith("_")]),
                )
            found = getattr(found, part)
        return found

    def _broken(self, error: Exception) -> MethodError:
        """What went wrong as the module was imported, with the line of the package's own that it went wrong at."""
        own = [
            f
            for f in traceback.extract_tb(error.__traceback__)
            if not f.filename.startswith("<")
            and f"{os.sep}importlib{os.sep}" not in f.filename
            and _PACKAGE not in Path(f.filename).parents
        ]
        return MethodError(
            f"the {self.kind} '{self.name}' of {self.comes_from} cannot be imported: {type(error).__name__}: {error}",
            where=f"{own[-1].filename}:{own[-1].lineno}" if own else self.module,
            remedy="mend the package, or take it out",
        )

    def wrong(self, what: str) -> MethodError:
        """The error for an entry point that names another thing than its group is for. `what`: what it should name."""
        return MethodError(
            f"the entry point '{self.name}' of {self.comes_from} ({self.module}:{self.attribute}) is no {what}",
            where=f"entry point group {self.group}",
            remedy=f"let it name a {what}",
        )


@functools.cache
def points(group: str) -> dict[str, Point]:
    """The entry points of a group by name, sorted."""
    found: dict[str, Point] = {}
    for point in importlib.metadata.entry_points(group=group):
        about = point.dist
        name, version = (about.name, about.version) if about is not None else ("an unnamed distribution", "")
        made = Point(group, point.name, point.module, point.attr or "", name, version)
        if (first := found.get(point.name)) is not None:
            if (first.module, first.attribute) == (made.module, made.attribute):
                continue  # one package that is seen twice on the path
            made = Point(group, point.name, point.module, point.attr or "", name, version, first.comes_from)
        found[point.name] = made
    return dict(sorted(found.items()))


def code(groups: Iterable[str] = (TASKS, SHAPES, METRICS)) -> tuple[Path, ...]:
    """The files of all that other packages add in these groups, sorted."""
    return tuple(sorted({f for group in groups for point in points(group).values() for f in point.files()}))


def code_hash(groups: Iterable[str] = (TASKS, SHAPES, METRICS)) -> str:
    """A hash of `code` with each package's version; "" where nothing is added."""
    added = [p for group in groups for p in points(group).values()]
    if not added:
        return ""
    h = hashlib.sha256(repr(sorted((p.group, p.name, p.comes_from) for p in added)).encode())
    for file in code(groups):
        h.update(file.read_bytes())
    return h.hexdigest()
