"""Whether a finished run's folder still holds what its report speaks of: every file by its hash in report.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tunewright.errors import CheckpointError, FolderError
from tunewright.files import checkpoint
from tunewright.files.checkpoint import sha256_of
from tunewright.files.regular import regular
from tunewright.report import seal
from tunewright.report.schema import Report
from tunewright.runs import begun
from tunewright.runs.drawn_pictures import FILE as PICTURES
from tunewright.runs.folder import ALONG, BASE, BEGUN, LOCK, METRICS, PROGRESS, RECIPE, ROWS, STREAM, TASKS, RunFolder

TO_READ = (ROWS, STREAM, METRICS, PROGRESS, "report.html")
"""Files that only a reader misses: what the run made is whole without them."""
READ_WHOLE = ("adapter", "wrapper", "stages", BASE)
"""Folders that are read as a whole, so that a file which someone added to them may decide what comes out."""
_FILES = (
    BEGUN,
    *TO_READ,
    "made/*.jsonl",
    f"{TASKS}/*.json",
    f"{ALONG}/*.jsonl",
    "selection/*.jsonl",
    PICTURES,
    "delta.json",
    "delta.safetensors",
    *(f"{folder}/**/*" for folder in READ_WHOLE),
)
_APART = (RECIPE, LOCK, PROGRESS, Report.file)
"""Files of a run that have no hash in its report (in an earlier one's)."""
_LATER = ("model", "tensorboard", "wandb", "ollama", "mlx", "onnx", "vllm-adapter", "gguf")
"""Folders that are written after the report or beside it: an export, a tracker's."""
SHOWN = 5


@dataclass
class Intact:
    """A run's folder that holds what its report speaks of: how many files have their hash there, 0 of a report without
    hashes. `beside`: files that are none of the run's own, by their path in its folder.
    """

    files: int = 0
    beside: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        if not self.files:
            return "no report vouches for the run's other files"
        more = f"; beside them lie files that it does not speak of: {_some(self.beside)}" if self.beside else ""
        return f"{self.files} files are as the report says{more}"


def hashes_of(run: Path) -> dict[str, str]:
    """SHA-256 of every file that a run leaves, by its path in the run's folder; not of checkpoints on the way, nor of
    recipe.yaml, whose values are in begun.json.
    """
    found = {p for pattern in _FILES for p in run.glob(pattern) if p.is_file()}
    return {p.relative_to(run).as_posix(): sha256_of(p) for p in sorted(found)}


def check(run: Path, *, may_lack: Sequence[str] = ()) -> Intact:
    """Check report.json, every file that it names, the recipe, and what else lies in the run's folder.

    CheckpointError where a file was altered, is missing (but for those that `may_lack` names), or was added to a folder
    that is read whole.
    """
    hashes, told = _said(run)
    for name, known in hashes.items():
        try:
            if sha256_of(regular(run / name)) != known:
                told.append(f"{name} was altered")
        except OSError as e:
            if not (isinstance(e, FileNotFoundError) and name in may_lack):
                told.append(f"{name} cannot be read: {e.strerror or e}")
    beside = _added(run, hashes) if hashes else []
    inside = [name for name in beside if name.split("/")[0] in READ_WHOLE]
    told += [f"{name} was added" for name in inside]
    if told:
        raise CheckpointError(
            f"this run's folder is not what its report speaks of: {_some(told)}",
            where=str(run),
            remedy="put the run's own files back and take others out, or run its recipe again",
        )
    begun.check_recipe(RunFolder(run))
    return Intact(len(hashes), beside)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f", and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _added(run: Path, hashes: Mapping[str, str]) -> list[str]:
    """Files that are none of a run's own: with no hash, and in none of the folders that are written apart."""
    out = []
    for path in sorted(p for p in run.rglob("*") if not p.is_dir() or p.is_symlink()):
        name = path.relative_to(run).as_posix()
        first, inside = name.split("/")[0], "/" in name
        if name in hashes or name in _APART or (inside and first in _LATER):
            continue
        if inside and first.startswith("checkpoint-") and path.name in _of_checkpoint(run / first):
            continue
        out.append(name)
    return out


def _of_checkpoint(folder: Path) -> set[str]:
    """What a checkpoint's manifest speaks of."""
    try:
        return {checkpoint.MANIFEST, *json.loads(regular(folder / checkpoint.MANIFEST).read_bytes())}
    except (OSError, ValueError, TypeError):
        return set()


def is_altered(run: Path) -> bool:
    """Whether a run's report is not what the run wrote. FolderError for one that cannot be read."""
    return bool(_said(run)[1])


def _said(run: Path) -> tuple[dict[str, str], list[str]]:
    """The hashes that the report carries, and what is wrong with the report itself. A report of a version that carried
    none is taken as it is.
    """
    file = run / Report.file
    try:
        text = regular(file).read_bytes()
        tree = json.loads(text)
        hashes = {str(k): str(v) for k, v in tree.get("hashes", {}).items()}
    except (OSError, ValueError, AttributeError) as e:
        raise FolderError(f"the report cannot be read: {e}", where=str(file), remedy=Report.again) from e
    return hashes, [f"{Report.file} was altered"] if seal.is_altered(text) else []
