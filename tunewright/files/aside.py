"""Names for what was written and then failed its check, so that nobody takes it for what was asked for."""

from __future__ import annotations

from itertools import count
from pathlib import Path


def set_aside(path: Path, of: Path | None = None) -> Path:
    """Give a file or folder the name of `of` (its own) with .broken behind it, or with .broken-2 ... where there is one
    of that name already; return its new path.
    """
    base = path if of is None else of
    names = (base.with_name(f"{base.name}.broken" + (f"-{k}" if k > 1 else "")) for k in count(1))
    return path.rename(next(name for name in names if not name.exists()))
