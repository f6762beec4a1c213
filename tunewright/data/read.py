"""Reading rows: tables, JSON, Parquet, Arrow, text and npz, folders of these or of pictures, data sets of `datasets`
and of the hub, package data, rows that are made.

A row that cannot be used becomes a `Problem` with its file and line and never stops the others; a file that cannot be
read at all is a DataError.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from tunewright.contract.records import Problem, Record, RowProblem
from tunewright.data import files, sets
from tunewright.data.permuted import reordered
from tunewright.data.places import Place, SourceLike, locate, split_of
from tunewright.data.raw import Bad, Mark
from tunewright.data.remote import Remote, passing
from tunewright.data.series import series_in
from tunewright.data.shapes import SHAPELESS, canonical, recognise, rename
from tunewright.data.steps import episodes_in
from tunewright.data.tables import as_cells
from tunewright.data.where import drawn, meant, wanted
from tunewright.errors import DataError
from tunewright.machine import going
from tunewright.tasks._parts import SERIES, STEPS
from tunewright.tasks._parts import TABLE as TABLE_ROWS

__all__ = ["Place", "Record", "SourceLike", "locate", "read_all", "read_source"]


Raw = tuple[str, str, Mapping[str, Any] | Bad, str]
"""A row as it stands: its id, where it stands, what it holds, and the folder that its relative paths start from."""


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


def with_rows(
    source: SourceLike, base: Path | str = ".", problems: list[Problem] | None = None, remarks: list[str] | None = None
) -> Iterator[tuple[Mapping[str, Any], Record]]:
    """Each record of a source with the row as it stands in its file; else as `read_source`."""
    last: list[Mapping[str, Any] | Bad] = [{}]
    place = locate(source, base)
    for record in _read(place, source, problems, [] if remarks is None else remarks, last):
        row = last[0]
        assert not isinstance(row, Bad)
        yield row, record


def _read(
    place: Place,
    source: SourceLike,
    problems: list[Problem] | None,
    remarks: list[str],
    last: list[Mapping[str, Any] | Bad] | None = None,
) -> Iterator[Record]:
    """`last`: holds the row, as it stands, that the last record was made of."""
    count = used = 0

    def rows() -> Iterator[Raw]:
        nonlocal count
        for row in going.counted(limited(place, source, remarks), f"reading {place.name}", "rows"):
            count += 1
            if last is not None:
                last[0] = row[2]
            yield row

    given = rows()
    if source.format == SERIES:
        found = series_in(given, place, source, problems, remarks)
    else:
        first = list(islice(given, 1))
        gathers = any(_is_step(row, source) for _, _, row, _ in first)
        found = (episodes_in if gathers else records_in)(chain(first, given), place, source, problems)
    for used, record in enumerate(found, 1):  # noqa: B007
        yield record
    if not count:
        raise DataError("there are no rows", where=place.name, remedy="give a file with at least one row")
    asked = wanted(source)
    if not used and not problems and (asked or getattr(source, "share", None)):
        each = " and ".join(f"{c}: {', '.join(sorted(texts)[:3])}" for c, texts in asked.items()) or "such a draw"
        raise DataError(
            f"none of {count} rows has {each}", where=place.name, remedy="write values that rows have in `where`"
        )


def _is_step(row: Mapping[str, Any] | Bad, source: SourceLike) -> bool:
    """Whether rows are the steps of episodes, by one of them or by what the source says."""
    if source.format is not None or isinstance(row, Bad):
        return source.format == STEPS
    try:
        return recognise(rename(row, source.columns)).name == STEPS
    except RowProblem:
        return False


def limited(place: Place, source: SourceLike, remarks: list[str] | None = None) -> Iterator[Raw]:
    """Rows as they stand in the files, at most the source's `limit`."""
    return islice(raw_rows(place, source, remarks), source.limit)


def records_in(
    rows: Iterable[Raw], place: Place, source: SourceLike, problems: list[Problem] | None
) -> Iterator[Record]:
    """Rows as they stand in files, in canonical shape. Bad ones are appended to `problems`; without it the first one
    is raised as a DataError. Rows that the source's `where` does not mean are passed over.
    """
    asked = wanted(source)
    for name, where, row, folder in rows:
        try:
            if isinstance(row, Bad):
                raise RowProblem(row.field, row.reason, row.remedy)
            if not drawn(name, source) or asked and not meant(row, asked, source.columns):
                continue
            if source.format == TABLE_ROWS:
                target, features = (getattr(source, name, None) for name in ("_target", "_features"))
                values, shape = as_cells(row, source.columns, features, target), TABLE_ROWS
            else:
                values, shape = canonical(row, source.columns, source.format)
            if (seed := getattr(source, "permute", None)) is not None:
                values = {**values, "image": reordered(values.get("image"), seed)}
            yield Record(values, id=name, where=where, source=place.name, shape=shape, base=folder)
        except RowProblem as found:
            problem = _of_table(found, place).at(where)
            if problems is None:
                raise problem.error() from None
            problems.append(problem)


TABLE = "; a table's first line must name its columns"
"""What a remedy ends with where the rows are those of a table."""


def _of_table(problem: RowProblem, place: Place) -> RowProblem:
    """What is wrong with a row whose columns are no known shape, and what that may come from in a table."""
    shapeless = problem.field == SHAPELESS and "no known shape" in problem.reason
    if not shapeless or not any(files.kind_of(p) in files.TABLES for p in place.files):
        return problem
    return RowProblem(problem.field, problem.reason, problem.remedy + TABLE)


@dataclass(frozen=True)
class Shard:
    """A part of a source that is read by itself: a file, or all of what is not read by files (then `path` is None).

    `name` and `where` stand before the numbers of its rows: in their ids, and where they are told.
    """

    name: str
    where: str
    path: Path | None = None
    number: int = 0
    remote: Remote | None = None


def shards_of(place: Place, source: SourceLike) -> list[Shard]:
    """The parts of a source, in order."""
    if place.hub is not None and getattr(source, "streaming", False):
        count = _hub(place, source).num_shards
        return [Shard(f"{place.name}:{k}", f"{place.name}:{k}", number=k) for k in range(count)]
    if place.remote:
        called = Counter(f.name for f in place.remote)
        return [Shard(f.name if called[f.name] == 1 else f.url, f.url, remote=f) for f in place.remote]
    if not place.files:
        return [Shard(place.name, place.name)]
    packaged = place.name.startswith("quickstart:")
    # two sources are called alike where each is a part of a file: a task's rows to learn from, and those to measure on
    told = source.path if wanted(source) else place.name
    inside, called = _inside(place.files), Counter(p.name for p in place.files)
    out = list[Shard]()
    for path in place.files:
        where = told if packaged or len(place.files) == 1 else f"{place.name.rstrip('/')}/{inside[path]}"
        # rows are known by their ids: files of one name in two folders may not share theirs
        name = place.name if packaged else inside[path] if called[path.name] > 1 else path.name
        out.append(Shard(name, where, path))
    return out


def raw_rows(place: Place, source: SourceLike, remarks: list[str] | None = None) -> Iterator[Raw]:
    """Rows as they stand in the files."""
    for shard in shards_of(place, source):
        yield from shard_rows(shard, place, source, remarks)


def shard_rows(
    shard: Shard, place: Place, source: SourceLike, remarks: list[str] | None = None, mark: Mark | None = None
) -> Iterator[Raw]:
    """Rows of one part of a source as they stand there. With `mark`, reading begins there, and it goes along."""
    remarks = [] if remarks is None else remarks
    if shard.remote is not None:
        with passing(shard.remote) as path:
            yield from shard_rows(replace(shard, remote=None, path=path), place, source, remarks, mark)
        return
    if shard.path is not None:
        folder = str(shard.path.parent)
        for number, row in files.read(shard.path, getattr(source, "sheet", None), remarks, mark):
            yield f"{shard.name}:{number}", f"{shard.where}:{number}", row, folder
        return
    skip = 0 if mark is None else mark.rows
    if place.media is not None:
        rows: Iterator[Raw] = islice(place.media.rows(place.name, remarks), skip, None)
    else:
        folder = str(place.saved or ".")
        numbered = _numbered(shard, place, source, skip)
        rows = ((f"{shard.name}:{i}", f"{shard.where}:{i}", held, folder) for i, held in numbered)
    for raw in rows:
        if mark is not None:
            mark.rows += 1
        yield raw


def _numbered(
    shard: Shard, place: Place, source: SourceLike, skip: int
) -> Iterator[tuple[int, Mapping[str, Any] | Bad]]:
    """Rows that are known by their numbers alone, without the first `skip`."""
    if place.made is not None:
        rows: Iterator[tuple[int, Mapping[str, Any] | Bad]] = enumerate(place.made.make(), 1)
    elif place.saved is not None:
        rows = sets.saved_rows(place.saved, split_of(source), place.name)
    elif getattr(source, "streaming", False):
        return sets.streamed_rows(_hub(place, source), shard.number, skip, place.name)
    else:
        assert place.hub is not None
        config, revision = (getattr(source, key, None) for key in ("config", "revision"))
        rows = sets.hub_rows(place.hub, config, split_of(source), revision)
    return islice(rows, skip, None)


def _hub(place: Place, source: SourceLike) -> Any:
    """A hub data set that is read as it is needed."""
    assert place.hub is not None
    return sets.hub_stream(place.hub, getattr(source, "config", None), source.split, getattr(source, "revision", None))


def _inside(paths: Sequence[Path]) -> dict[Path, str]:
    """Each file's path from the folder that holds them all."""
    if len(paths) == 1:
        return {paths[0]: paths[0].name}
    common = os.path.commonpath([p.parent for p in paths]) if paths else ""
    return {p: p.relative_to(common).as_posix() for p in paths}
