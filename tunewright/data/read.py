"""Reading rows: tables, JSON, Parquet, Arrow, text and npz, folders of these or of pictures, data sets of `datasets`
and of the hub, package data, rows that are made.

A row that cannot be used becomes a `Problem` with its file and line and never stops the others; a file that cannot be
read at all is a DataError.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunewright.contract.records import Problem, Record, RowProblem
from tunewright.data import files, sets
from tunewright.data.places import Place, SourceLike, locate
from tunewright.data.raw import Bad
from tunewright.data.shapes import canonical
from tunewright.errors import DataError

__all__ = ["Place", "Record", "SourceLike", "locate", "read_all", "read_source"]


@dataclass
class Read:
    """All rows of a source: records that can be used and problems of those that cannot, which grow as it is read.

    So do `remarks`: sentences about what is not read and could be missed.
    """

    place: Place
    records: Iterable[Record] = ()
    problems: list[Problem] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def read_all(source: SourceLike, base: Path | str = ".") -> Read:
    """Read a source whole."""
    out = read_lazily(source, base)
    out.records = list(out.records)
    return out


def read_lazily(source: SourceLike, base: Path | str = ".") -> Read:
    """A source whose records are read when they are asked for, once."""
    out = Read(locate(source, base))
    out.records = _read(out.place, source, out.problems, out.remarks)
    return out


def read_source(source: SourceLike, base: Path | str = ".", problems: list[Problem] | None = None) -> Iterator[Record]:
    """Give a source's records in canonical shape, in file order, at most `source.limit` rows.

    Bad rows are appended to `problems`; without it the first one is raised as a DataError. Raises DataError for a file
    that is missing, empty, binary or wrongly encoded, MissingExtraError for a hub id without a network.
    """
    yield from _read(locate(source, base), source, problems, [])


def _read(place: Place, source: SourceLike, problems: list[Problem] | None, remarks: list[str]) -> Iterator[Record]:
    count = 0
    for name, where, row, folder in raw_rows(place, source, remarks):
        if source.limit is not None and count >= source.limit:
            return
        count += 1
        try:
            if isinstance(row, Bad):
                raise RowProblem(row.field, row.reason, row.remedy)
            values, shape = canonical(row, source.columns, source.format)
            yield Record(values, id=name, where=where, source=place.name, shape=shape, base=folder)
        except RowProblem as found:
            problem = _of_table(found, place).at(where)
            if problems is None:
                raise problem.error() from None
            problems.append(problem)
    if not count:
        raise DataError("there are no rows", where=place.name, remedy="give a file with at least one row")


def _of_table(problem: RowProblem, place: Place) -> RowProblem:
    """What is wrong with a row whose columns are no known shape, and what that may come from in a table."""
    shapeless = problem.field == "row" and "no known shape" in problem.reason
    if not shapeless or not any(files.kind_of(p) in files.TABLES for p in place.files):
        return problem
    remedy = f"{problem.remedy}; a table's first line must name its columns"
    return RowProblem(problem.field, problem.reason, remedy)


def raw_rows(
    place: Place, source: SourceLike, remarks: list[str] | None = None
) -> Iterator[tuple[str, str, Mapping[str, Any] | Bad, str]]:
    """Rows as they stand in the files: id, where, row, and the folder that its relative paths start from."""
    remarks = [] if remarks is None else remarks
    if place.media is not None:
        yield from place.media.rows(place.name, remarks)
        return
    if (numbered := _numbered(place, source)) is not None:
        for i, row in numbered:
            yield f"{place.name}:{i}", f"{place.name}:{i}", row, str(place.saved or ".")
        return
    packaged = place.name.startswith("quickstart:")
    inside, called = _inside(place.files), Counter(p.name for p in place.files)
    for path in place.files:
        where = place.name if packaged or len(place.files) == 1 else f"{place.name.rstrip('/')}/{inside[path]}"
        # rows are known by their ids: files of one name in two folders may not share theirs
        name = place.name if packaged else inside[path] if called[path.name] > 1 else path.name
        folder = str(path.parent)
        for number, read in files.read(path, getattr(source, "sheet", None), remarks):
            yield f"{name}:{number}", f"{where}:{number}", read, folder


def _numbered(place: Place, source: SourceLike) -> Iterator[tuple[int, Mapping[str, Any] | Bad]] | None:
    """Rows that are known by their numbers alone; None for those of files."""
    if place.made is not None:
        return enumerate(place.made.make(), 1)
    if place.saved is not None:
        return sets.saved_rows(place.saved, source.split, place.name)
    if place.hub is not None:
        config, revision = (getattr(source, key, None) for key in ("config", "revision"))
        return sets.hub_rows(place.hub, config, source.split, revision)
    return None


def _inside(paths: Sequence[Path]) -> dict[Path, str]:
    """Each file's path from the folder that holds them all."""
    if len(paths) == 1:
        return {paths[0]: paths[0].name}
    common = os.path.commonpath([p.parent for p in paths]) if paths else ""
    return {p: p.relative_to(common).as_posix() for p in paths}
