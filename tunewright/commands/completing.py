"""What a shell offers while a command line is typed: names that a verb takes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def recipes(incomplete: str) -> list[str]:
    """Recipes that ship with the package, and recipe files here."""
    from tunewright.recipe.load import packaged

    here = Path(incomplete)
    folder = here if incomplete.endswith("/") else here.parent
    files = [str(p) for pattern in ("*.yaml", "*.yml") for p in folder.glob(pattern)] if folder.is_dir() else []
    return _beginning(incomplete, [*packaged(), *files])


def methods(incomplete: str) -> list[str]:
    """Methods, merges, probes and the rest that a recipe may name, and the slots that they fill."""
    from tunewright import catalogue
    from tunewright.contract.slot import SLOTS

    return _beginning(incomplete, [*catalogue.entries(), *SLOTS])


def categories(incomplete: str) -> list[str]:
    """The ways in which methods spare parameters."""
    from tunewright.contract.category import CATEGORIES

    return _beginning(incomplete, CATEGORIES)


def tasks(incomplete: str) -> list[str]:
    """The tasks that a recipe may name."""
    from tunewright import catalogue

    return _beginning(incomplete, catalogue.tasks())


def _beginning(incomplete: str, names: Iterable[str]) -> list[str]:
    return sorted({n for n in names if n.startswith(incomplete)})
