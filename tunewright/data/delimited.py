"""CSV and TSV. Cells are text as they are written (007, 1e5, NA, None); an empty cell is a missing value.

The first line names the columns. The separator of a CSV file is the one that cuts its first rows alike: comma,
semicolon, tab or bar. A row's number is the line that it begins in.
"""

from __future__ import annotations

import csv
import io
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any

from tunewright.data.opening import decoded
from tunewright.data.raw import Bad, Rows
from tunewright.errors import DataError

SEPARATORS = (",", ";", "\t", "|")
MOST = 1 << 24
"""Characters of the longest cell: a quote that is never closed may not take a whole large file into memory."""
_SAMPLE, _FIRST = 1 << 16, 20  # characters and rows that tell the separator
_TOLD = re.compile(r"sep=(.)\r?\n")
"""The line by which Excel is told the separator."""


def comma_separated(path: Path) -> Rows:
    """Rows of a CSV file."""
    with decoded(path) as f:
        sample = f.read(_SAMPLE)
    told = _TOLD.match(sample)
    yield from _rows(path, told[1] if told else _separator(sample), skip=1 if told else 0)


def tab_separated(path: Path) -> Rows:
    """Rows of a TSV file."""
    yield from _rows(path, "\t")


def _separator(sample: str) -> str:
    """The separator that gives most of the first rows as many cells as the header, first of all one between which
    quotes stand as they should; a comma where none cuts it.
    """
    best, separator = (False, 0.0, 0), SEPARATORS[0]
    for candidate in SEPARATORS:
        whole = True
        try:
            rows = _cut(sample, candidate, strict=True)
        except csv.Error:
            try:
                rows, whole = _cut(sample, candidate, strict=False), False
            except csv.Error:
                continue
        rows = rows[:-1] if len(rows) > 1 and len(sample) == _SAMPLE else rows  # the last one may be cut
        if rows and len(rows[0]) > 1:
            alike = [len(row) == len(rows[0]) for row in rows]
            found = (whole, sum(alike) / len(alike), len(rows[0]))
            best, separator = max((best, separator), (found, candidate), key=_first)
    return separator


def _cut(sample: str, separator: str, *, strict: bool) -> list[list[str]]:
    """The first rows of a sample. csv.Error where it cannot be read so."""
    read = csv.reader(io.StringIO(sample, newline=""), delimiter=separator, strict=strict)
    return list(islice(filter(None, read), _FIRST + 1))


def _first(pair: tuple[Any, str]) -> Any:
    return pair[0]


class _Lines:
    """A file's lines, with those of the row at hand kept: where it is broken, all but its first are read again.

    `before` are the lines that earlier iterations gave.
    """

    def __init__(self, file: IO[str]):
        self._file, self._again = file, deque[str]()
        self.row = list[str]()
        self.before = 0

    def __iter__(self) -> Iterator[str]:
        row = self.row
        while self._again:
            row.append(self._again.popleft())
            yield row[-1]
        for line in self._file:
            row.append(line)
            yield line

    def skip(self) -> None:
        """Leave out a line."""
        self.before += bool(next(self._file, ""))

    def back(self, read: int) -> None:
        """Give all lines of the row but its first once more, of `read` lines that this iteration gave."""
        self._again.extendleft(reversed(self.row[1:]))
        self.before += read - len(self.row) + 1
        self.row.clear()


def _rows(path: Path, separator: str, skip: int = 0) -> Rows:
    csv.field_size_limit(max(MOST, csv.field_size_limit()))
    with decoded(path) as f:
        lines = _Lines(f)
        for _ in range(skip):
            lines.skip()
        yield from _table(path, lines, separator)


def _table(path: Path, lines: _Lines, separator: str) -> Rows:
    columns: Columns | None = None
    row = 0  # of the data, told beside the line where the two part
    kept = lines.row
    broken = True
    while broken:
        broken = False
        reader = csv.reader(lines, delimiter=separator, strict=True)
        while True:
            kept.clear()
            try:
                cells = next(reader, None)
            except csv.Error as error:
                line = lines.before + reader.line_num - len(kept) + 1
                if columns is None:
                    raise DataError(
                        f"the header cannot be read: {error}", where=f"{path}:{line}", remedy=QUOTE
                    ) from None
                row += 1
                yield line, _unreadable(error, kept, line, row)
                lines.back(reader.line_num)
                broken = True
                break
            if cells is None:
                return
            if not cells or not (cells[0].strip() or any(map(str.strip, cells))):
                continue  # an empty line, or one of separators alone as spreadsheets write it
            line = lines.before + reader.line_num - len(kept) + 1
            if columns is None:
                columns = Columns(cells, f"{path}:{line}")
                continue
            row += 1
            if (made := columns.mapping(cells)) is None:
                yield line, columns.fault(cells, "" if line == row + 1 else f"row {row}: ", separator, "".join(kept))
            else:
                yield line, made


QUOTE = 'write a cell with quotes, separators or line ends between quotes, and its own quotes twice: "say ""yes"""'


def _unreadable(error: csv.Error, lines: Sequence[str], line: int, row: int) -> Bad:
    why = str(error)
    if "unexpected end" in why or "field larger" in why:
        why = "a quote is opened and never closed"
    elif "expected after" in why:
        why = "text stands behind a closing quote" if len(lines) == 1 else "a quote is opened and not closed"
    return Bad("line", why if line == row + 1 else f"row {row}: {why}", QUOTE, lines[0].rstrip("\r\n") if lines else "")


class Columns:
    """A table's columns, from its header. DataError where they are no names, or a name stands twice."""

    def __init__(self, header: Sequence[str], where: str):
        names = [name.strip() for name in header]
        while names and not names[-1]:
            names.pop()
        self.names = [name or f"Unnamed: {i}" for i, name in enumerate(names)]  # as pandas calls an index's column
        twice = next((n for i, n in enumerate(self.names) if n in self.names[:i]), None)
        if twice is not None:
            raise DataError(f"two columns are called '{twice}'", where=where, remedy="rename one of them")
        if not names or all(map(_is_number, names)):
            raise DataError(
                f"the first line names no columns: {', '.join(names)[:60] or 'it is empty'}",
                where=where,
                remedy="write a first line that does, such as: text,label",
            )

    def mapping(self, cells: list[str]) -> Mapping[str, Any] | None:
        """A row, its empty cells missing; None where there are more or fewer than columns, or it is the header."""
        wanted = len(self.names)
        if len(cells) != wanted:
            if len(cells) < wanted or any(cells[wanted:]):
                return None
            cells = cells[:wanted]
        if cells[0] == self.names[0] and wanted > 1 and cells == self.names:
            return None
        row: dict[str, Any] = dict(zip(self.names, cells, strict=True))
        if "" in cells:
            row = {name: cell or None for name, cell in row.items()}
        return row

    def fault(self, cells: Sequence[str], which: str, separator: str, raw: str) -> Bad:
        """Why cells are no row."""
        if list(cells[: len(self.names)]) == self.names:
            return Bad("row", f"{which}the header stands here again", "take the line out", raw.rstrip("\r\n"))
        return self._ragged(len(cells), which, separator, raw)

    def _ragged(self, count: int, which: str, separator: str, raw: str) -> Bad:
        wanted = len(self.names)
        reason = f"{which}{count} cell{'s' * (count != 1)}, and the header names {wanted} column{'s' * (wanted != 1)}"
        mark = "tab" if separator == "\t" else separator
        if count < wanted:
            remedy = "fill in the row, or take it out"
        elif separator:
            remedy = f"write a cell that holds '{mark}' between quotes"
        else:
            remedy = "name every column in the first row, or empty the cells beside them"
        return Bad("row", reason, remedy, raw.rstrip("\r\n"))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
