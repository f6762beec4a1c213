"""Reading rows: JSONL, Parquet, text, npz, folders of these, package data, data sets of the hub, rows that are made.

A row that cannot be used becomes a `Problem` with its file and line and never stops the others; a file that cannot be
read at all is a DataError.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tunewright.contract.records import Problem, Record, RowProblem
from tunewright.data import files
from tunewright.data.files import Bad
from tunewright.data.generators import MADE, Generator, generator
from tunewright.data.shapes import canonical
from tunewright.errors import DataError, MissingExtraError, did_you_mean
from tunewright.files.home import expanded
from tunewright.files.regular import is_special

__all__ = ["Place", "Record", "SourceLike", "locate", "read_all", "read_source"]

QUICKSTART = Path(__file__).parent / "quickstart"


class SourceLike(Protocol):
    """What reading needs to know of a source; `tunewright.recipe.Source` is one."""

    path: str
    split: str | None
    format: str | None
    columns: dict[str, str]
    limit: int | None


@dataclass(frozen=True)
class Place:
    """Where a source's rows are: files in order, or a hub id, or what makes them (`files` empty)."""

    name: str
    files: tuple[Path, ...] = ()
    hub: str | None = None
    made: Generator | None = None


def locate(source: SourceLike, base: Path | str = ".") -> Place:
    """Find a source's files. DataError when there are none."""
    path = source.path
    name = getattr(source, "name", None) or path
    if path.startswith(MADE):
        return Place(name, made=generator(path, getattr(source, "parameters", None)))
    if path.startswith("quickstart:"):
        return Place(name, (_packaged(path),))
    at = Path(base) / expanded(path)
    if at.is_dir():
        paths = tuple(
            sorted(p for p in at.rglob("*") if p.is_file() and files.kind_of(p) and not p.name.startswith("."))
        )
        if not paths:
            raise DataError(
                "the folder holds no data file",
                where=str(at),
                remedy="put files there that end in " + ", ".join(files.READERS),
            )
        return Place(name, paths)
    if at.is_file():
        if not files.kind_of(at):
            raise DataError(
                f"files that end in '{at.suffix}' cannot be read",
                where=path,
                remedy="convert it to JSONL (one JSON object a line); read are: " + ", ".join(files.READERS),
            )
        return Place(name, (at,))
    if is_special(at):
        raise DataError("a pipe or a device, not a file", where=path, remedy="write its rows to a file first")
    if files.kind_of(at) or Path(path).is_absolute() or path.startswith(".") or path.count("/") > 1:
        near = [p.name for p in at.parent.iterdir()] if at.parent.is_dir() else []
        raise DataError(
            "no such file or folder",
            where=str(at),
            remedy=did_you_mean(at.name, near) if near else "check the path: it starts from the recipe's folder",
        )
    return Place(path, hub=path)


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


@dataclass
class Read:
    """All rows of a source: records that can be used and problems of those that cannot, which grow as it is read."""

    place: Place
    records: Iterable[Record] = ()
    problems: list[Problem] = field(default_factory=list)


def read_all(source: SourceLike, base: Path | str = ".") -> Read:
    """Read a source whole."""
    out = read_lazily(source, base)
    out.records = list(out.records)
    return out


def read_lazily(source: SourceLike, base: Path | str = ".") -> Read:
    """A source whose records are read when they are asked for, once."""
    out = Read(locate(source, base))
    out.records = read_source(source, base, out.problems)
    return out


def read_source(source: SourceLike, base: Path | str = ".", problems: list[Problem] | None = None) -> Iterator[Record]:
    """Give a source's records in canonical shape, in file order, at most `source.limit` rows.

    Bad rows are appended to `problems`; without it the first one is raised as a DataError. Raises DataError for a file
    that is missing, empty, binary or wrongly encoded, MissingExtraError for a hub id without a network.
    """
    place = locate(source, base)
    count = 0
    for name, where, row, folder in raw_rows(place, source):
        if source.limit is not None and count >= source.limit:
            return
        count += 1
        try:
            if isinstance(row, Bad):
                raise RowProblem(row.field, row.reason, row.remedy)
            values, shape = canonical(row, source.columns, source.format)
            yield Record(values, id=name, where=where, source=place.name, shape=shape, base=folder)
        except RowProblem as problem:
            if problems is None:
                raise problem.at(where).error() from None
            problems.append(problem.at(where))
    if not count:
        raise DataError("there are no rows", where=place.name, remedy="give a file with at least one row")


def raw_rows(place: Place, source: SourceLike) -> Iterator[tuple[str, str, Mapping[str, Any] | Bad, str]]:
    """Rows as they stand in the files: id, where, row, and the folder that its relative paths start from."""
    if place.made is not None:
        for i, made in enumerate(place.made.make(), 1):
            yield f"{place.name}:{i}", f"{place.name}:{i}", made, "."
        return
    if place.hub is not None:
        for i, row in enumerate(_hub(place.hub, source.split)):
            yield f"{place.name}:{i + 1}", f"{place.name}:{i + 1}", row, "."
        return
    packaged = place.name.startswith("quickstart:")
    inside, called = _inside(place.files), Counter(p.name for p in place.files)
    for path in place.files:
        where = place.name if packaged or len(place.files) == 1 else f"{place.name.rstrip('/')}/{inside[path]}"
        # rows are known by their ids: files of one name in two folders may not share theirs
        name = place.name if packaged else inside[path] if called[path.name] > 1 else path.name
        for number, read in files.read(path):
            yield f"{name}:{number}", f"{where}:{number}", read, str(path.parent)


def _inside(paths: Sequence[Path]) -> dict[Path, str]:
    """Each file's path from the folder that holds them all."""
    if len(paths) == 1:
        return {paths[0]: paths[0].name}
    common = os.path.commonpath([p.parent for p in paths]) if paths else ""
    return {p: p.relative_to(common).as_posix() for p in paths}


def _hub(name: str, split: str | None) -> Iterator[Mapping[str, Any]]:
    """Rows of a hub data set through the `datasets` library; class ids become names, pictures stay bytes."""
    import datasets

    try:
        loaded = datasets.load_dataset(name, split=split or "train")
    except (ConnectionError, OSError, datasets.exceptions.DatasetsError) as error:
        if isinstance(error, datasets.exceptions.DatasetNotFoundError | ConnectionError | OSError):
            why = str(error).splitlines()[0] if str(error) else "no answer"
            reason = f"'{name}' is no file here, and cannot be had from the hub ({type(error).__name__}: {why})"
            raise MissingExtraError(
                reason,
                where=name,
                remedy="check the name and the network, or download the data and give the file's path",
            ) from None
        raise DataError(
            f"the data set cannot be read: {error}", where=name, remedy="download it and give the file's path"
        ) from None
    except ValueError as error:
        raise DataError(
            f"the data set cannot be read: {error}", where=name, remedy="set split to one that the data set has"
        ) from None
    named = {n: f for n, f in loaded.features.items() if isinstance(f, datasets.ClassLabel)}
    for n, f in loaded.features.items():
        if isinstance(f, datasets.Image):
            loaded = loaded.cast_column(n, datasets.Image(decode=False))
    for row in loaded:
        yield {k: named[k].int2str(v) if k in named and isinstance(v, int) and v >= 0 else v for k, v in row.items()}
