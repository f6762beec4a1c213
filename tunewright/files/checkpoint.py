"""Files that survive a crash: written aside, flushed, hashed and renamed; read back only when every hash agrees.

A checkpoint is a folder `checkpoint-<step>` of safetensors files, `state.json` and `manifest.json` (sha256 of each of
the others). No pickle. Sizes in bytes, steps are optimizer steps.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunewright.errors import CheckpointError, FolderError
from tunewright.files.cache import sync as flush
from tunewright.files.regular import regular
from tunewright.files.tensors import save_tensors

if TYPE_CHECKING:
    from torch import Tensor

MANIFEST, STATE = "manifest.json", "state.json"
_NAME = re.compile(r"checkpoint-(\d+)$")


@dataclass
class Checkpoint:
    """What was read: JSON `state`, and tensors by file stem."""

    folder: Path
    step: int
    state: dict[str, Any]
    tensors: dict[str, dict[str, Tensor]]


def sha256_of(path: Path) -> str:
    """Hash of a file's bytes."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Replace a text file in one step: a reader sees the old one or the new one, never half of either."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(aside, "w", encoding="utf-8") as f:
            f.write(text)
            f.flush()
            os.fsync(f.fileno())
        os.replace(aside, path)
    except OSError as e:
        aside.unlink(missing_ok=True)
        raise folder_error(e, path) from e


def write_texts(texts: Mapping[Path, Iterable[str]]) -> None:
    """Replace some text files, given as pieces of text, of one folder: all are written aside before the first takes its
    name. FolderError where that fails, with every file as it was, as where a text cannot be had.
    """
    aside = {path.with_name(f".{path.name}.{os.getpid()}"): path for path in texts}
    made = [p for path in texts for p in (path.parent, *path.parent.parents) if not p.exists()]
    try:
        for temporary, path in aside.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, "a folder of this name is there", str(path))
            with open(temporary, "w", encoding="utf-8") as f:
                f.writelines(texts[path])
                f.flush()
                os.fsync(f.fileno())
        for temporary, path in aside.items():
            os.replace(temporary, path)
    except BaseException as e:
        for temporary in aside:
            with suppress(OSError):
                temporary.unlink()
        for folder in made:
            with suppress(OSError):
                folder.rmdir()
        if isinstance(e, OSError):
            raise folder_error(e, Path(e.filename or next(iter(texts)))) from e
        raise


def write_json(path: Path, value: Any) -> None:
    """`write_text` of JSON; NaN and infinities are refused rather than written as invalid JSON."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False))


def folder_error(e: OSError, path: Path) -> FolderError:
    """Turn an OSError into one clear message."""
    if e.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        full = "the disk is full" if e.errno != errno.EFBIG else "the disk is full, or the file too large for it"
        return FolderError(
            f"{full}; nothing written earlier was touched",
            where=str(path),
            remedy="free space, then `tunewright resume` the run's folder",
        )
    if e.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return FolderError(
            "the folder cannot be written",
            where=str(path),
            remedy="choose another with --out, or change its permissions",
        )
    if e.errno == errno.ENAMETOOLONG:
        shown = str(path) if len(str(path)) < 100 else f"{str(path)[:80]}..."
        return FolderError("the path is longer than the disk allows", where=shown, remedy="choose a shorter name")
    if e.errno == errno.ENOENT and not path.parent.exists():
        return FolderError(
            "the folder is not there any more", where=str(path.parent), remedy="make it, or choose another"
        )
    return FolderError(f"cannot write: {e.strerror or e}", where=str(path), remedy="choose another folder with --out")


def system_error(e: OSError) -> FolderError:
    """One message for what the system refused where nobody expected it."""
    told = (
        folder_error(e, Path(str(e.filename)))
        if e.errno in _WRITING or e.errno == errno.ENAMETOOLONG
        else FolderError(f"the system refuses it: {e.strerror or e}", remedy="check the path and the disk")
    )
    told.where = (told.where or str(e.filename)) if e.filename is not None else None
    return told


_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS, errno.EPERM)


def write_folder(final: Path, state: Mapping[str, Any], tensors: Mapping[str, Mapping[str, Tensor]]) -> Path:
    """Write a folder of JSON and safetensors whole or not at all, replacing one of the same name.

    FolderError on failure.
    """
    aside = final.parent / f".{final.name}.{os.getpid()}"
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        for stem, values in tensors.items():
            save_tensors({n: t.detach().contiguous().cpu() for n, t in values.items()}, aside / f"{stem}.safetensors")
        (aside / STATE).write_text(json.dumps(state, allow_nan=False), encoding="utf-8")
        files = sorted(aside.iterdir())
        for p in files:
            flush(p)
        (aside / MANIFEST).write_text(json.dumps({p.name: sha256_of(p) for p in files}, indent=1), encoding="utf-8")
        flush(aside / MANIFEST)
        flush(aside)
        if final.exists():
            shutil.rmtree(final)
        os.rename(aside, final)
        flush(final.parent)
    except OSError as e:
        shutil.rmtree(aside, ignore_errors=True)
        raise folder_error(e, final) from e
    except Exception:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return final


def save(
    run: Path,
    step: int,
    state: Mapping[str, Any],
    tensors: Mapping[str, Mapping[str, Tensor]],
    save_total_limit: int | None = None,
) -> Path:
    """Write `checkpoint-<step>`; then remove all but the newest `save_total_limit`."""
    final = write_folder(run / f"checkpoint-{step}", {**state, "step": step}, tensors)
    if save_total_limit:
        for _, old in listed(run)[:-save_total_limit]:
            shutil.rmtree(old, ignore_errors=True)
    return final


def listed(run: Path) -> list[tuple[int, Path]]:
    """Checkpoints of a run as (step, folder), oldest first; unfinished ones are not among them."""
    checkpoints = [(int(m.group(1)), p) for p in run.glob("checkpoint-*") if p.is_dir() and (m := _NAME.match(p.name))]
    return sorted(checkpoints)


def read(folder: Path) -> Checkpoint:
    """Read one checkpoint, checking every hash. CheckpointError names the file that is missing, altered or pickled."""
    from safetensors.torch import load_file

    for p in folder.iterdir():
        if p.suffix in {".pt", ".pth", ".bin", ".pkl", ".ckpt"}:
            raise CheckpointError(
                f"'{p.name}' is a pickle, which can run code when it is read",
                where=str(folder),
                remedy="only safetensors and JSON are read; start again from the recipe",
            )
    try:
        manifest = json.loads(regular(folder / MANIFEST).read_text(encoding="utf-8"))
        for name, digest in manifest.items():
            if sha256_of(regular(folder / name)) != digest:
                raise CheckpointError(
                    f"'{name}' differs from its hash in {MANIFEST}: it was altered or is damaged",
                    where=str(folder),
                    remedy="put the file back from a copy, or train it again",
                )
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        tensors = {Path(n).stem: load_file(folder / n) for n in manifest if n.endswith(".safetensors")}
    except (OSError, ValueError, AttributeError) as e:
        raise CheckpointError(
            f"cannot be read: {e}", where=str(folder), remedy="an earlier checkpoint is used when there is one"
        ) from e
    return Checkpoint(folder, int(state.get("step", 0)), state, tensors)


def latest(run: Path, note: Any = print) -> Checkpoint | None:
    """The newest checkpoint that is whole; each damaged one is named through `note` and passed over."""
    for _, folder in reversed(listed(run)):
        try:
            return read(folder)
        except CheckpointError as e:
            note(f"{e}; using the checkpoint before it")
    return None
