"""Whether a finished run's folder still holds what its report speaks of: every file by its hash in report.json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tunewright.errors import CheckpointError, FolderError
from tunewright.files.checkpoint import sha256_of
from tunewright.files.regular import regular
from tunewright.report.schema import Report
from tunewright.report.seal import seal_of
from tunewright.runs import begun
from tunewright.runs.folder import BEGUN, METRICS, ROWS, RunFolder

TO_READ = (ROWS, METRICS, "report.html")
"""Files that only a reader misses: what the run made is whole without them."""
_FILES = (BEGUN, *TO_READ, "delta.json", "delta.safetensors", "adapter/**/*", "wrapper/**/*", "stages/**/*")
SHOWN = 5


def hashes_of(run: Path) -> dict[str, str]:
    """SHA-256 of every file that a run leaves, by its path in the run's folder; not of checkpoints on the way, nor of
    recipe.yaml, whose values are in begun.json.
    """
    found = {p for pattern in _FILES for p in run.glob(pattern) if p.is_file() and not p.name.startswith(".")}
    return {p.relative_to(run).as_posix(): sha256_of(p) for p in sorted(found)}


def check(run: Path, *, may_lack: Sequence[str] = ()) -> int:
    """Check report.json, every file that it names and the recipe; returns how many files, 0 of a report without hashes.

    CheckpointError where one was altered or is missing (but for those that `may_lack` names).
    """
    hashes, told = _said(run)
    for name, known in hashes.items():
        try:
            if sha256_of(regular(run / name)) != known:
                told.append(f"{name} was altered")
        except OSError as e:
            if not (isinstance(e, FileNotFoundError) and name in may_lack):
                told.append(f"{name} cannot be read: {e.strerror or e}")
    if told:
        more = f", and {len(told) - SHOWN} more" if len(told) > SHOWN else ""
        raise CheckpointError(
            f"this run's folder is not what its report speaks of: {', '.join(told[:SHOWN])}{more}",
            where=str(run),
            remedy="put the run's own files back, or run its recipe again",
        )
    begun.check_recipe(RunFolder(run))
    return len(hashes)


def _said(run: Path) -> tuple[dict[str, str], list[str]]:
    """The hashes that the report carries, and what is wrong with the report itself. A report of a version that carried
    none is taken as it is.
    """
    file = run / Report.file
    try:
        text = regular(file).read_bytes()
        tree = json.loads(text)
        hashes, seal = {str(k): str(v) for k, v in tree.get("hashes", {}).items()}, tree.get("seal")
    except (OSError, ValueError, AttributeError) as e:
        raise FolderError(f"the report cannot be read: {e}", where=str(file), remedy=Report.again) from e
    altered = (seal is not None or bool(hashes)) and seal != seal_of(text)
    return hashes, [f"{Report.file} was altered"] if altered else []
