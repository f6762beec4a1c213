"""`~` in paths that people write."""

from __future__ import annotations

from pathlib import Path

from tunewright.errors import FolderError


def expanded(path: Path | str) -> Path:
    """The path with `~` and `~user` written out. FolderError where the system knows no such home."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        user = Path(path).parts[0]
        raise FolderError(
            f"the system knows no home folder for {user}", where=str(path), remedy="write the path from the root"
        ) from None
