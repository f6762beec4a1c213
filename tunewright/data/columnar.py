"""Parquet and Arrow: rows in Python's types, some at a time.

Numbers, text, lists and structures are what they are; dates, times and decimals become text as they are written
(2024-01-31, 1.50), maps become mappings. Columns that `datasets` wrote keep what their features mean: ids of classes
become names, also inside lists and structures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from tunewright.data.raw import Bad, Rows
from tunewright.errors import DataError

Change = Callable[[Any], Any]
ROWS, AT_ONCE = 1024, 8 << 20
"""Rows, and about how many of their bytes, that become Python values together."""
_BUFFER = 1 << 20  # bytes of a column that are read at once
_FEATURES = b"huggingface"
"""The key of a schema's metadata where `datasets` writes features."""


def parquet_rows(path: Path, skip: int = 0) -> Rows:
    """Rows of a Parquet file, numbered from 1; without the first `skip`, whose row groups are not read."""
    import pyarrow.parquet

    with _refusing(path, "Parquet"), pyarrow.parquet.ParquetFile(path, buffer_size=_BUFFER) as file:
        make = Maker(file.schema_arrow, str(path))
        about = file.metadata
        groups = [about.row_group(i) for i in range(about.num_row_groups)]
        wide = max((g.total_byte_size / max(1, g.num_rows) for g in groups), default=0)
        some = int(max(1, min(ROWS, AT_ONCE / max(1, wide))))
        before = first = 0
        while first < len(groups) and before + groups[first].num_rows <= skip:
            before += groups[first].num_rows
            first += 1
        batches = file.iter_batches(some, row_groups=range(first, len(groups)))
        yield from islice(make.numbered(batches, before), skip - before, None)


def arrow_rows(path: Path) -> Rows:
    """Rows of an Arrow file or stream (IPC; also Feather, and what `datasets` writes), numbered from 1."""
    import pyarrow

    with _refusing(path, "Arrow"), pyarrow.memory_map(str(path)) as source:
        framed = source.read(6) == b"ARROW1"
        source.seek(0)
        if framed:
            file = pyarrow.ipc.open_file(source)
            make, batches = Maker(file.schema, str(path)), map(file.get_batch, range(file.num_record_batches))
        else:
            stream = pyarrow.ipc.open_stream(source)
            make, batches = Maker(stream.schema, str(path)), iter(stream)
        yield from make.numbered(batches)


class _refusing:
    """What pyarrow raises of a damaged file becomes one DataError."""

    def __init__(self, path: Path, kind: str):
        self.path, self.kind = path, kind

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        import pyarrow

        system = isinstance(error, OSError) and error.errno is not None
        if isinstance(error, pyarrow.ArrowException | OSError | UnicodeDecodeError) and not system:
            said = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise DataError(
                f"not {'an' if self.kind == 'Arrow' else 'a'} {self.kind} file that can be read: {said}",
                where=str(self.path),
                remedy="write it again, or give JSONL",
            ) from None


class Maker:
    """Makes rows of record batches. `features` are those of `datasets`; None: what the schema's metadata says.

    DataError where two columns have one name, or the metadata cannot be read.
    """

    def __init__(self, schema: Any, where: str, features: Any = None):
        twice = next((n for i, n in enumerate(schema.names) if n in schema.names[:i]), None)
        if twice is not None:
            raise DataError(f"two columns are called '{twice}'", where=where, remedy="rename one of them")
        if features is None and _FEATURES in (schema.metadata or {}):
            features = _features(schema, where)
        changes = {f.name: _both(_as_json(f.type), _named((features or {}).get(f.name))) for f in schema}
        self.changes = {name: change for name, change in changes.items() if change is not None}
        # asked for without need, it costs two thirds of the speed
        self._maps = {"maps_as_pydicts": "lossy"} if any("map<" in str(f.type) for f in schema) else {}

    def numbered(self, batches: Any, before: int = 0) -> Rows:
        """Rows of batches one after the other, numbered from 1, or behind the rows `before`."""
        number = before
        for batch in batches:
            for row in self.rows(batch):
                number += 1
                yield number, row

    def rows(self, batch: Any) -> Iterator[Mapping[str, Any] | Bad]:
        """Rows of a record batch; one whose text is no UTF-8 is Bad alone."""
        some = int(max(1, min(ROWS, AT_ONCE / max(1, batch.nbytes / max(1, batch.num_rows)))))
        for start in range(0, batch.num_rows, some):
            piece = batch.slice(start, some)
            try:
                yield from self._made(piece)
            except (ValueError, OverflowError):  # of pyarrow, too: a row that cannot be read is found by itself
                for i in range(piece.num_rows):
                    yield self._alone(piece.slice(i, 1))

    def _made(self, piece: Any) -> list[dict[str, Any]]:
        piece.validate(full=True)  # a damaged file may point anywhere
        rows: list[dict[str, Any]] = piece.to_pylist(**self._maps)
        for name, change in self.changes.items():
            for row in rows:
                if row[name] is not None:
                    row[name] = change(row[name])
        return rows

    def _alone(self, piece: Any) -> Mapping[str, Any] | Bad:
        try:
            return self._made(piece)[0]
        except (ValueError, OverflowError) as error:
            said = (str(error).strip() or type(error).__name__).splitlines()[0]
            return Bad("row", f"a value cannot be read: {said}", "write the row again, or take it out")


def _features(schema: Any, where: str) -> Any:
    import datasets

    try:
        return datasets.Features.from_arrow_schema(schema)
    except Exception as error:  # of whatever stands in a file's metadata
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"the features in its metadata cannot be read: {said}",
            where=where,
            remedy="write the file again with `datasets`, or without the schema's metadata",
        ) from None


def _both(first: Change | None, second: Change | None) -> Change | None:
    if first is None or second is None:
        return first or second
    return lambda value: second(first(value))


def _as_json(kind: Any) -> Change | None:
    """What makes a value of an Arrow type one that JSON could hold; None where it is one (bytes stay)."""
    from pyarrow import types

    kind = getattr(kind, "storage_type", kind)
    if types.is_temporal(kind) or types.is_decimal(kind):
        return str
    if types.is_dictionary(kind):
        return _as_json(kind.value_type)
    if types.is_map(kind):
        return _of_map(_as_json(kind.item_type))
    if types.is_struct(kind):
        return _of_struct({kind.field(i).name: _as_json(kind.field(i).type) for i in range(kind.num_fields)})
    if hasattr(kind, "value_type"):  # lists of every kind
        return _of_list(_as_json(kind.value_type))
    return None


def _named(feature: Any) -> Change | None:
    """What makes names of the ids of classes in a value of a feature of `datasets`; None where there are none."""
    if feature is None:
        return None
    import datasets

    if isinstance(feature, datasets.ClassLabel):
        return lambda value: _name(feature, value)
    if isinstance(feature, dict):
        return _of_struct({name: _named(inner) for name, inner in feature.items()})
    inner = feature[0] if isinstance(feature, list) and feature else getattr(feature, "feature", None)
    return _of_list(_named(inner))


def _name(feature: Any, value: Any) -> Any:
    """A class's name; None for -1, as sets write it whose labels are held back."""
    if not isinstance(value, int):
        return value
    if value == -1:
        return None
    return feature.names[value] if feature.names and 0 <= value < len(feature.names) else value


def _of_list(change: Change | None) -> Change | None:
    if change is None:
        return None
    return lambda value: None if value is None else [None if v is None else change(v) for v in value]


def _of_map(change: Change | None) -> Change | None:
    if change is None:
        return None
    return lambda value: {k: None if v is None else change(v) for k, v in value.items()}


def _of_struct(changes: Mapping[str, Change | None]) -> Change | None:
    used = {name: change for name, change in changes.items() if change is not None}
    if not used:
        return None

    def changed(value: Any) -> Any:
        return {k: used[k](v) if k in used and v is not None else v for k, v in value.items()}

    return changed
