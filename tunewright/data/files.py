"""Files as rows: each reader gives (line or row number, mapping or Bad). A file that cannot be read is a DataError."""

from __future__ import annotations

import codecs
import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tunewright.contract.records import RowProblem, lone_surrogate
from tunewright.data.npz import pictures
from tunewright.errors import DataError


@dataclass(frozen=True)
class Bad:
    """A row that cannot be read: field, reason, remedy, and what stood there."""

    field: str
    reason: str
    remedy: str
    raw: str = ""


Rows = Iterator[tuple[int, Mapping[str, Any] | Bad]]
_OBJECT = 'write one JSON object a line: {"prompt": "...", "completion": "..."}'


def kind_of(path: Path) -> str | None:
    """The ending by which a file is read ("jsonl.gz"), None where it cannot be."""
    return next((e for e in sorted(READERS, key=len, reverse=True) if path.name.lower().endswith("." + e)), None)


def read(path: Path) -> Rows:
    """Rows of one file. DataError when it is empty, binary, wrongly encoded, truncated or not readable."""
    kind = kind_of(path)
    assert kind is not None, path
    try:
        if path.stat().st_size == 0:
            raise DataError("the file is empty", where=str(path), remedy="give a file with at least one row")
        yield from READERS[kind](path)
    except UnicodeDecodeError as error:
        line = _line_of(path, error)
        raise DataError(
            f"not UTF-8 text (byte 0x{error.object[error.start]:02x})",
            where=f"{path}:{line}" if line else str(path),
            remedy="save it as UTF-8: `iconv -f latin1 -t utf-8 FILE`",
        ) from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(
            f"the gzip file is broken: {error}", where=str(path), remedy="copy or compress it again"
        ) from None
    except PermissionError:
        raise DataError("the file may not be read", where=str(path), remedy=f"`chmod u+r {path}`") from None


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb")  # type: ignore[return-value]


def _line_of(path: Path, error: UnicodeDecodeError) -> int | None:
    with _open(path) as f:
        for number, line in enumerate(f, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return number
    return None


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Decoded lines without their ends (LF or CRLF); a leading byte-order mark is taken off, binary files are
    refused.
    """
    with _open(path) as f:
        head = f.peek(4096)[:4096] if hasattr(f, "peek") else b""
        if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise DataError(
                "the file is UTF-16", where=str(path), remedy="save it as UTF-8: `iconv -f utf-16 -t utf-8 FILE`"
            )
        if b"\0" in head:
            raise DataError(
                "the file is binary, not text", where=str(path), remedy="give JSONL, Parquet or plain text in UTF-8"
            )
        for number, line in enumerate(f, 1):
            raw = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            yield number, raw.decode("utf-8").rstrip("\r\n")


def _jsonl(path: Path) -> Rows:
    for number, line in _lines(path):
        if not line.strip():
            continue
        if number == 1 and line.lstrip().startswith("["):
            raise DataError(
                "a JSON array, not one object a line",
                where=f"{path}:1",
                remedy="rename it to .json, or write one row per line: `jq -c '.[]' FILE > rows.jsonl`",
            )
        yield number, _object(line)


def _object(line: str) -> Mapping[str, Any] | Bad:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        return Bad("line", f"not JSON: {error.msg} at column {error.colno}", _OBJECT, line)
    except RecursionError:
        return Bad("line", "not JSON that can be read: nested too deeply", _OBJECT, line)
    if not isinstance(value, dict):
        return Bad("line", f"a JSON object is needed, not {type(value).__name__}", _OBJECT, line)
    return _whole(value, line) or value


def _whole(row: Mapping[str, Any], text: str) -> Bad | None:
    """What is wrong with a row that holds half of a surrogate pair, which JSON can escape and UTF-8 cannot hold."""
    if "\\ud" not in text and "\\uD" not in text:
        return None
    for field, value in _texts(row, ""):
        if problem := lone_surrogate(value, field):
            return Bad(problem.field, problem.reason, problem.remedy, text)
    return None


def _texts(value: Any, field: str) -> Iterator[tuple[str, str]]:
    """Every text in a row, keys too, with the field that holds it."""
    if isinstance(value, str):
        yield field, value
    elif isinstance(value, list):
        for k, inner in enumerate(value):
            yield from _texts(inner, f"{field}[{k}]")
    elif isinstance(value, dict):
        for key, inner in value.items():
            name = json.dumps(key)[1:-1]
            yield name, key
            yield from _texts(inner, f"{field}.{name}" if field else name)


def _json(path: Path) -> Rows:
    """One JSON array of objects (small files; numbers are places in the array, from 1)."""
    text = "\n".join(line for _, line in _lines(path))
    if text.lstrip().startswith("{") and text.strip().count("\n"):  # JSON lines under another name
        yield from ((n, _object(line)) for n, line in enumerate(text.split("\n"), 1) if line.strip())
        return
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"not JSON: {error.msg}",
            where=f"{path}:{error.lineno}",
            remedy="write an array of objects, or one object a line in a .jsonl file",
        ) from None
    if not isinstance(values, list):
        raise DataError(
            f"an array of objects is needed, not {type(values).__name__}",
            where=str(path),
            remedy="write [{...}, {...}]",
        )
    suspect = "\\ud" in text or "\\uD" in text
    for i, value in enumerate(values, 1):
        if isinstance(value, dict):
            yield i, _whole(value, json.dumps(value) if suspect else "") or value
        else:
            yield i, Bad("row", f"an object is needed, not {type(value).__name__}", _OBJECT)


def _text(path: Path) -> Rows:
    """Documents separated by blank lines; a document's number is that of its first line."""
    start, lines = 0, list[str]()
    for number, line in _lines(path):
        if line.strip():
            start = start or number
            lines.append(line)
        elif lines:
            yield start, {"text": "\n".join(lines)}
            start, lines = 0, []
    if lines:
        yield start, {"text": "\n".join(lines)}


def _parquet(path: Path) -> Rows:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        number = 0
        for batch in file.iter_batches(1024):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except pyarrow.ArrowException as error:
        raise DataError(
            f"not a Parquet file that can be read: {str(error).splitlines()[0]}",
            where=str(path),
            remedy="write it again, or give JSONL",
        ) from None


def _npz(path: Path) -> Rows:
    """Pictures and labels, see `data.npz`."""
    for number, row in pictures(path):
        yield number, Bad(row.field, row.reason, row.remedy) if isinstance(row, RowProblem) else row


READERS: dict[str, Callable[[Path], Rows]] = {
    "jsonl": _jsonl,
    "jsonl.gz": _jsonl,
    "ndjson": _jsonl,
    "json": _json,
    "parquet": _parquet,
    "txt": _text,
    "txt.gz": _text,
    "md": _text,
    "npz": _npz,
}
"""How a file's ending says it is read."""
