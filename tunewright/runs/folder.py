"""The run folder: its name, its lock, and what is written into it. Imports nothing heavy."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tunewright.errors import CheckpointError, FolderError
from tunewright.files.checkpoint import folder_error, write_json, write_text
from tunewright.files.regular import regular
from tunewright.machine import host

RECIPE, LOCK, METRICS, ROWS, PROGRESS = "recipe.yaml", ".lock", "metrics.jsonl", "rows.jsonl", "progress.json"
BEGUN, STREAM, PRUNED = "begun.json", "stream.jsonl", "pruned.json"
ADAPTERS = "adapters.json"
"""What a run of several adapters leaves beside their folders."""
TASKS = "tasks"
"""The folder of what a sequence of tasks was measured to give after each."""
ALONG = "along"
"""The folder of what each stage was measured to give along its way."""
BASE = "base"
"""The fresh model that a run began with: a whole transformers folder."""
_ASIDE = re.compile(
    r"^\..+\.(\d+|partial|old)$"
)  # as checkpoint.write_text, write_folder and cache.written_aside call them


class RunFolder:
    """One run's folder. `progress` is a JSON file of what is done, so that `resume` skips it."""

    def __init__(self, path: Path):
        self.path = path

    def file(self, name: str) -> Path:
        return self.path / name

    def progress(self) -> dict[str, Any]:
        """What is done so far; empty at the start."""
        try:
            return dict(json.loads(regular(self.file(PROGRESS)).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError) as e:
            raise CheckpointError(
                f"what the run has done so far cannot be read: {e}",
                where=str(self.file(PROGRESS)),
                remedy="put the file back, or begin a new run",
            ) from e

    def note_progress(self, **done: Any) -> None:
        write_json(self.file(PROGRESS), {**self.progress(), **done})

    def write_recipe(self, text: str) -> None:
        write_text(self.file(RECIPE), text)

    def append_metrics(self, record: dict[str, Any]) -> None:
        """Add one record to metrics.jsonl."""
        try:
            with open(self.file(METRICS), "a", encoding="utf-8") as f:
                f.write(json.dumps(record, allow_nan=False) + "\n")
        except OSError as e:
            raise folder_error(e, self.file(METRICS)) from e

    def metrics(self) -> list[dict[str, Any]]:
        """All logged records; a half-written last line is left out."""
        return list(_lines(self.file(METRICS)))

    def drop_metrics_after(self, stage: str, step: int) -> None:
        """Forget records of steps that a resumed run will do again."""
        kept = [r for r in self.metrics() if r.get("stage") != stage or r.get("step", 0) <= step]
        write_text(self.file(METRICS), "".join(json.dumps(r) + "\n" for r in kept))

    def sweep(self) -> None:
        """Remove what a killed process left half-written beside the files that it meant to replace."""
        for place in (self.path, self.path / "stages"):
            for p in place.glob(".*.*") if place.is_dir() else ():
                if _ASIDE.search(p.name):
                    shutil.rmtree(p, ignore_errors=True) if p.is_dir() else p.unlink(missing_ok=True)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        text = regular(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        return
    except (OSError, ValueError) as e:
        raise CheckpointError(
            f"the logged steps cannot be read: {e}", where=str(path), remedy="put the file back, or begin a new run"
        ) from e
    for line in text.splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            return


def new_folder(name: str, out: Path | None, root: Path = Path("runs")) -> RunFolder:
    """Make the folder of a new run: `out`, or runs/<name>, runs/<name>-2, ... FolderError when `out` is in the way."""
    if out is not None:
        if (out / LOCK).exists():
            with locked(RunFolder(out)):  # a live run there is named as such
                pass
        if out.exists() and not out.is_dir():
            raise FolderError("a file is there", where=str(out), remedy="choose another --out: a folder")
        if out.exists() and any(out.iterdir()):
            goes_on = f", or go on with `tunewright resume {out}`" if (out / LOCK).exists() else ""
            raise FolderError("the output folder is not empty", where=str(out), remedy=f"choose another --out{goes_on}")
        return RunFolder(_made(out))
    name = re.sub(r"[^\w.-]+", "-", name) or "run"
    for i in range(1, 10_000):
        path = root / (name if i == 1 else f"{name}-{i}")
        if not path.exists():
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.mkdir()
            except FileExistsError:
                continue
            except OSError as e:
                raise folder_error(e, path) from e
            return RunFolder(path)
    raise FolderError(f"10,000 runs are called '{name}'", where=str(root), remedy="choose a folder with --out")


def _made(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as e:
        raise folder_error(e, path) from e
    return path


@contextmanager
def locked(folder: RunFolder) -> Iterator[None]:
    """Hold the folder for this process. FolderError when a live process holds it; a dead one's lock is free."""
    try:
        lock = host.Lock(folder.file(LOCK))
    except OSError as e:
        raise folder_error(e, folder.path) from e
    except host.Held as e:
        raise FolderError(
            f"a live run (process {e.holder or '?'}) is using this folder",
            where=str(folder.path),
            remedy="wait for it, stop it, or choose another --out",
        ) from None
    try:
        yield
    finally:
        lock.release()


def discard_if_empty(folder: RunFolder) -> None:
    """Remove a folder in which nothing was computed: a recipe that turned out invalid leaves nothing behind."""
    names = {p.name for p in folder.path.iterdir()} if folder.path.exists() else set()
    if names <= {RECIPE, LOCK, PROGRESS, BEGUN, BASE}:
        shutil.rmtree(folder.path, ignore_errors=True)


def unaltered(file: Path, digest: str, what: str) -> bytes:
    """A file that the run noted by its SHA-256. CheckpointError, by what it holds, where it is not there or altered."""
    cause: OSError | None = None
    try:
        data = file.read_bytes()
    except OSError as e:
        why, cause = f"{what} cannot be read: {e.strerror or e}", e
    else:
        if hashlib.sha256(data).hexdigest() == digest:
            return data
        why = f"{what} is not what the run noted: the file was altered"
    raise CheckpointError(why, where=str(file), remedy="put the file back, or begin a new run") from cause
