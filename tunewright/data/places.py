"""Where a source's rows are: files, a folder of pictures, a data set, package data, or what makes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from tunewright.contract.records import Problem
from tunewright.data import files, media, remote, sets, splits
from tunewright.data.generators import MADE, Generator, generator
from tunewright.data.mask_folders import Masked
from tunewright.data.media import Media
from tunewright.data.yolo_folders import Boxed
from tunewright.errors import DataError, did_you_mean
from tunewright.files.home import expanded
from tunewright.files.regular import is_special
from tunewright.tasks._parts import SERIES

QUICKSTART = Path(__file__).parent / "quickstart"
_PAGES = frozenset({"readme", "license", "licence", "changelog", "citation", "notice"})
"""Names of files that say something about data and are none, where data lies beside them."""


class SourceLike(Protocol):
    """What reading needs to know of a source; `tunewright.recipe.Source` is one."""

    path: str
    split: str | None
    format: str | None
    columns: dict[str, str]
    limit: int | None


def as_written(problem: Problem, source: SourceLike) -> Problem:
    """A problem that names the file's own columns, where the source says what they are called here; one with `columns`
    itself stays as it is.
    """
    if problem.reason.startswith("columns "):
        return problem
    called = {ours: theirs for ours, theirs in source.columns.items() if ours != theirs}
    if (target := getattr(source, "_target", None)) is not None:
        called.setdefault("label", target)
    field = called.get(problem.field, problem.field)
    reason, remedy = problem.reason, problem.remedy
    for ours, theirs in called.items():
        for mark in ("'", "`", '"'):
            reason = reason.replace(f"{mark}{ours}{mark}", f"{mark}{theirs}{mark}")
            remedy = remedy.replace(f"{mark}{ours}{mark}", f"{mark}{theirs}{mark}")
    return replace(problem, field=field, reason=reason, remedy=remedy)


@dataclass(frozen=True)
class Place:
    """Where a source's rows are: files in order, or a folder of pictures, a saved data set, a hub id, or what makes
    them (then `files` is empty). `beside` are files that decide the rows, too. `remote` are files elsewhere, of a
    streamed source, which are brought one at a time.
    """

    name: str
    files: tuple[Path, ...] = ()
    hub: str | None = None
    made: Generator | None = None
    media: Media | Masked | Boxed | None = None
    saved: Path | None = None
    beside: tuple[Path, ...] = ()
    remote: tuple[remote.Remote, ...] = ()


def split_of(source: SourceLike) -> str | None:
    """The split of a folder or data set that a source asks for; of series none: there `split` is a part by time."""
    return None if source.format == SERIES else source.split


def locate(source: SourceLike, base: Path | str = ".") -> Place:
    """Find a source's files. DataError when there are none, or it says what its kind does not have."""
    place = _located(source, base)
    for key, fits, of in (
        ("config", place.hub is not None, "of a data set of the hub"),
        ("revision", place.hub is not None, "of a data set of the hub"),
        ("sheet", any(files.kind_of(p) in files.SHEETS for p in place.files), "of an XLSX file"),
    ):
        if getattr(source, key, None) is not None and not fits:
            raise DataError(f"it has no {key}: that is {of}", where=source.path, remedy=f"remove {key}")
    return place


def _located(source: SourceLike, base: Path | str) -> Place:
    path = source.path
    name = getattr(source, "name", None) or path
    if remote.is_remote(path):
        return _elsewhere(source, name)
    at = Path(base) / expanded(path)
    if split_of(source) is not None and (path.startswith((MADE, "quickstart:")) or at.is_file()):
        raise DataError(
            f"it has no split '{source.split}'",
            where=path,
            remedy="remove split; folders have splits (train/, test/), saved data sets, and those of the hub",
        )
    if path.startswith(MADE):
        return Place(name, made=generator(path, getattr(source, "parameters", None)))
    if path.startswith("quickstart:"):
        return Place(name, (_packaged(path),))
    if at.is_dir():
        return _folder(at, name, split_of(source))
    if at.is_file():
        if not files.kind_of(at):
            old = at.suffix.lower() == ".xls"
            remedy = "save it as .xlsx" if old else "convert it to JSONL (one JSON object a line)"
            raise DataError(
                f"files that end in '{at.suffix}' cannot be read",
                where=path,
                remedy=f"{remedy}; read are: {files.ENDINGS}",
            )
        return Place(name, (at,))
    if is_special(at):
        raise DataError("a pipe or a device, not a file", where=path, remedy="write its rows to a file first")
    if files.kind_of(at) or Path(path).is_absolute() or path.startswith(".") or path.count("/") > 1:
        # the first part of the path that is not there: a whole folder that is missing is the commoner mistake
        gone = next((p for p in (*reversed(at.parents), at) if not p.exists()), at)
        near = [p.name for p in gone.parent.iterdir()] if gone.parent.is_dir() else []
        if gone != at:
            remedy = f"put '{gone.name}' into {gone.parent}, or check the path: it starts from the recipe's folder"
        else:
            remedy = did_you_mean(at.name, near) if near else "check the path: it starts from the recipe's folder"
        raise DataError("no such file or folder", where=str(at), remedy=remedy)
    return Place(path, hub=path)


def _elsewhere(source: SourceLike, name: str) -> Place:
    """Files that an address names."""
    if split_of(source) is not None:
        raise DataError(
            f"it has no split '{source.split}'",
            where=source.path,
            remedy="remove split, and name the split's files by a pattern: .../train-*.parquet",
        )
    found = remote.listed(source.path)
    if getattr(source, "streaming", False):
        return Place(name, remote=found)
    return Place(name, tuple(map(remote.brought, found)))


def _folder(at: Path, name: str, split: str | None) -> Place:
    """What a folder's rows are."""
    if sets.is_saved(at):
        return Place(name, saved=at, beside=sets.saved_files(at))
    try:
        found = media.find(at, split, str(at))
    except PermissionError as error:
        raise DataError(
            "a folder in it may not be read", where=str(error.filename or at), remedy="`chmod u+rx` it"
        ) from None
    if found is not None:
        return Place(name, media=found, beside=tuple(at / p for p in found.metadata))
    paths = sorted(p for p in at.rglob("*") if p.is_file() and files.kind_of(p) and not p.name.startswith("."))
    rows = [p for p in paths if p.name.split(".")[0].lower() not in _PAGES] or paths
    if not rows:
        raise DataError(
            "the folder holds no data file",
            where=str(at),
            remedy=f"put files there that end in {files.ENDINGS}, or pictures or recordings",
        )
    return Place(name, tuple(rows if split is None else _of_split(at, rows, split)))


def _of_split(at: Path, paths: Sequence[Path], split: str) -> list[Path]:
    """The files of a split, by the names that `datasets` knows: train.csv, data-test-1.jsonl, validation/a.parquet."""
    from datasets.data_files import EmptyDatasetError, get_data_patterns, resolve_pattern

    try:
        patterns = get_data_patterns(str(at))
    except EmptyDatasetError:
        patterns = {}
    found: dict[str, set[Path]] = {}
    for name, of in patterns.items():
        for pattern in of:
            try:
                found.setdefault(str(name), set()).update(Path(p).resolve() for p in resolve_pattern(pattern, str(at)))
            except FileNotFoundError:  # a split has several patterns, of which one is met
                continue
    if split not in found:
        raise splits.unknown(split, found, str(at))
    return [p for p in paths if p.resolve() in found[split]]


def _packaged(path: str) -> Path:
    known = (
        {p.name.split(".")[0]: p for p in sorted(QUICKSTART.glob("*")) if files.kind_of(p)}
        if QUICKSTART.is_dir()
        else {}
    )
    part = path.split(":", 1)[1]
    if part not in known:
        raise DataError(
            f"the package has no data '{path}'",
            where=path,
            remedy=did_you_mean(path, [f"quickstart:{n}" for n in known]),
        )
    return known[part]
