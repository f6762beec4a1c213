"""Files as rows: each reader gives (line or row number, mapping or Bad). A file that cannot be read is a DataError."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from tunewright.contract.records import RowProblem, lone_surrogate
from tunewright.data.coco import PARTS, coco_rows, is_coco
from tunewright.data.columnar import arrow_rows, parquet_rows
from tunewright.data.delimited import comma_separated, tab_separated
from tunewright.data.npz import rows_of
from tunewright.data.opening import COMPRESSED, lines, refusing
from tunewright.data.raw import Bad, Mark, Rows
from tunewright.data.sheets import sheet_rows
from tunewright.data.task_file import is_task, task_rows
from tunewright.errors import DataError

_OBJECT = 'write one JSON object a line: {"prompt": "...", "completion": "..."}'


def kind_of(path: Path) -> str | None:
    """The ending by which a file is read ("jsonl.gz"), None where it cannot be."""
    return next((e for e in _LONGEST_FIRST if path.name.lower().endswith("." + e)), None)


def read(path: Path, sheet: str | None = None, remarks: list[str] | None = None, mark: Mark | None = None) -> Rows:
    """Rows of one file; of an XLSX file those of one sheet. DataError when it is empty, binary, wrongly encoded,
    truncated or not readable. `remarks` grow by what is not read and could be missed. With `mark`, reading begins
    there, and it goes along.
    """
    kind = kind_of(path)
    assert kind is not None, path
    with refusing(path):
        if path.stat().st_size == 0:
            raise DataError("the file is empty", where=str(path), remedy="give a file with at least one row")
        if kind in SHEETS:
            rows = sheet_rows(path, sheet, [] if remarks is None else remarks)
            yield from rows if mark is None else _behind(rows, mark)
        elif mark is None:
            yield from READERS[kind](path)
        elif READERS[kind] in _BY_LINES:
            for row in READERS[kind](path, mark):
                mark.rows += 1
                yield row
        elif READERS[kind] is parquet_rows:
            for row in parquet_rows(path, mark.rows):
                mark.rows += 1
                yield row
        else:
            yield from _behind(READERS[kind](path), mark)


def _behind(rows: Rows, mark: Mark) -> Rows:
    """The rows behind a mark of a file that has to be read from its beginning."""
    for row in islice(rows, mark.rows, None):
        mark.rows += 1
        yield row


def _jsonl(path: Path, mark: Mark | None = None) -> Rows:
    for number, line in lines(path, mark):
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
    """One JSON array of objects, a task with its instances, or COCO's images with their boxes (small files; numbers are
    places there, from 1).
    """
    text = "\n".join(line for _, line in lines(path))
    if text.lstrip().startswith("{") and '"Instances"' in text and (task := _task(path, text)) is not None:
        yield from task_rows(task, path.name.split(".")[0])
        return
    if all(f'"{part}"' in text for part in PARTS) and is_coco(boxed := _loaded(text)):
        yield from coco_rows(boxed, path)
        return
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


def _loaded(text: str) -> Any:
    """The one JSON value of a text; None where it is none."""
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return None


def _task(path: Path, text: str) -> Mapping[str, Any] | None:
    """The one object of a file of a task; None where it is none."""
    value = _loaded(text)
    if not isinstance(value, dict) or "Instances" not in value:
        return None
    if not is_task(value):
        raise DataError(
            "a task needs a Definition and a list of Instances",
            where=str(path),
            remedy='write {"Definition": ["..."], "Instances": [{"input": "...", "output": ["..."]}]}',
        )
    return value


def _text(path: Path, mark: Mark | None = None) -> Rows:
    """Documents separated by blank lines; a document's number is that of its first line."""
    start, held = 0, list[str]()
    for number, line in lines(path, mark):
        if line.strip():
            start = start or number
            held.append(line)
        elif held:
            yield start, {"text": "\n".join(held)}
            start, held = 0, []
    if held:
        yield start, {"text": "\n".join(held)}


def _npz(path: Path) -> Rows:
    """Pictures or recordings, see `data.npz`."""
    for number, row in rows_of(path):
        yield number, Bad(row.field, row.reason, row.remedy) if isinstance(row, RowProblem) else row


_TEXTS: dict[str, Callable[..., Rows]] = {
    "jsonl": _jsonl,
    "ndjson": _jsonl,
    "json": _json,
    "csv": comma_separated,
    "tsv": tab_separated,
    "txt": _text,
    "md": _text,
}
_BY_LINES = (_jsonl, _text)
"""Readers that go to a mark at once."""
SHEETS = ("xlsx", "xlsm")
READERS: dict[str, Callable[..., Rows]] = {
    **_TEXTS,
    **{f"{kind}.{ending}": reader for kind, reader in _TEXTS.items() for ending in COMPRESSED},
    "parquet": parquet_rows,
    "arrow": arrow_rows,
    "feather": arrow_rows,
    "npz": _npz,
}
"""How a file's ending says it is read, beside `SHEETS`."""
TABLES = frozenset({*SHEETS, *(kind for kind in READERS if kind.startswith(("csv", "tsv")))})
"""Kinds whose first row names the columns."""
_LONGEST_FIRST = sorted([*READERS, *SHEETS], key=len, reverse=True)
ENDINGS = (
    f"{', '.join(_TEXTS)} (each also with {' or '.join('.' + e for e in COMPRESSED)}), {SHEETS[0]}, parquet, arrow, "
    "feather, npz"
)
"""The endings of all files that are read, as messages name them."""
