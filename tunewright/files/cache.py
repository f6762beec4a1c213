"""Where Tunewright keeps what can be made again: converted models, hashes of weights, measurements of bases."""

from __future__ import annotations

import atexit
import errno
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tunewright.errors import FolderError
from tunewright.files.home import expanded
from tunewright.files.modes import share
from tunewright.files.tensors import refused_by_the_disk


def cache_folder() -> Path:
    """The cache: $TUNEWRIGHT_CACHE, else $XDG_CACHE_HOME/tunewright, else ~/.cache/tunewright. Not created here.

    For a user without a home (a container's nameless one) it is under the folder for temporary files. FolderError for
    a `~user` that the system does not know.
    """
    if own := os.environ.get("TUNEWRIGHT_CACHE"):
        return expanded(own)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tunewright"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"tunewright-{os.getuid()}"


def passing_folder(what: str) -> Path:
    """A folder that goes with this process, for what a cache that cannot be written would keep.

    FolderError where not even that can be written.
    """
    try:
        folder = tempfile.mkdtemp(prefix=f"tunewright-{what}-")
    except OSError as e:
        raise FolderError(
            f"neither the cache nor a temporary folder can be written: {e.strerror or e}",
            where=tempfile.tempdir,
            remedy="free space, or set TUNEWRIGHT_CACHE or TMPDIR to a folder that may be written",
        ) from e
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def sync(path: Path) -> None:
    """Flush a file or folder to the disk, so that a rename after it never shows a half-written one.

    Windows opens no folders and flushes no file that was opened to be read alone; it keeps folders' entries by itself.
    """
    if sys.platform == "win32" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def written_aside(target: Path, *, replace: bool = False, keep: bool = False) -> Iterator[Path]:
    """Give an empty folder beside `target`; when the block ends well it is flushed and renamed to `target`.

    When the block raises, nothing is left. With `replace` an existing target is swapped out and deleted after the new
    one stands; without it, an existing non-empty target is a FolderError, as are a full disk and a read-only folder.
    With `keep` a target that stands by then stays, and what was written is dropped: others may be reading it.
    """
    if target.exists() and not (replace or keep) and (not target.is_dir() or any(target.iterdir())):
        raise FolderError(
            "the output exists already", where=str(target), remedy="give another folder, or move this one away"
        )
    aside: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{target.name}-", suffix=".partial", dir=target.parent))
        yield aside
        share(aside)
        for path in sorted(aside.rglob("*")):
            sync(path)
        sync(aside)
        _stand(aside, target, replace=replace, keep=keep)
        sync(target.parent)
    except Exception as e:
        refused = e if isinstance(e, OSError) else refused_by_the_disk(e, target)
        if refused is None:
            raise
        raise FolderError(
            f"cannot write it: {refused.strerror or refused}",
            where=str(target),
            remedy="free space, or give a folder that may be written",
        ) from e
    finally:
        if aside is not None and aside.exists():
            shutil.rmtree(aside, ignore_errors=True)


def _stand(aside: Path, target: Path, *, replace: bool, keep: bool) -> None:
    """Rename what was written to `target`, where another process may have put its own since it was looked for."""
    while True:
        try:
            if replace:
                return _swap(aside, target)
            if target.is_dir() and not any(target.iterdir()):
                target.rmdir()  # Windows renames over no folder
            return os.rename(aside, target)
        except OSError as e:
            if e.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not (replace or keep):
                raise
            if keep:
                return


def _swap(aside: Path, target: Path) -> None:
    old: Path | None = None
    if target.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{target.name}-", suffix=".old", dir=target.parent))
        with suppress(FileNotFoundError):  # another process has swapped it out
            os.rename(target, old / target.name)
    try:
        os.rename(aside, target)
    except OSError:
        if old is not None:
            if (old / target.name).exists() and not target.exists():  # what was there comes back
                os.rename(old / target.name, target)
            shutil.rmtree(old, ignore_errors=True)
        raise
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Write JSON aside and rename it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as f:
            json.dump(value, f, ensure_ascii=False, indent=1)
            f.flush()
            os.fsync(f.fileno())
        share(Path(name))
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
