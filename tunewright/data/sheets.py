"""XLSX, through openpyxl (extra: xlsx). Cells are text, as CSV's are: 7, 0.5, TRUE, 2024-01-31.

One sheet is read: the first that is shown, or the one that a recipe names. Its first row that is not empty names the
columns; empty rows are no rows. Formulas give the value that was saved with them. A row's number is the sheet's own.
"""

from __future__ import annotations

import datetime
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from zipfile import ZipFile

from tunewright.data.delimited import Columns
from tunewright.data.raw import Bad, Rows
from tunewright.errors import DataError, MissingExtraError, TunewrightError, did_you_mean

_OLE = b"\xd0\xcf\x11\xe0"
"""How an old .xls file begins, and one with a password."""
_ERRORS = frozenset({"#NULL!", "#DIV/0!", "#VALUE!", "#REF!", "#NAME?", "#NUM!", "#N/A"})
_EXACT = 10**15  # whole numbers that a spreadsheet holds to the last digit


def sheet_rows(path: Path, wanted: str | None, remarks: list[str]) -> Rows:
    """Rows of a sheet. DataError where there is no such sheet; `remarks` grow by the names of those not read."""
    try:
        import openpyxl
    except ImportError:
        raise MissingExtraError(
            "XLSX files need openpyxl, which is not installed",
            where=str(path),
            remedy="pip install 'tunewright[xlsx]', or save the sheet as CSV",
        ) from None
    with path.open("rb") as file:
        if file.read(len(_OLE)) == _OLE:
            raise DataError(
                "an old .xls file or one with a password, not XLSX",
                where=str(path),
                remedy="save it as .xlsx without a password, or as CSV",
            )

    def book(values: bool) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return openpyxl.load_workbook(path, read_only=True, data_only=values, keep_links=False)

    opened: list[Any] = []
    try:
        opened.append(book(True))
        title = _chosen(opened[0], wanted, path, remarks)

        def formulas() -> Iterator[Sequence[Any]]:
            opened.append(book(False))
            return _cells(opened[-1][title])

        yield from _table(path, opened[0][title], _Empty(path, opened[0][title], formulas))
    except TunewrightError:
        raise
    except PermissionError:
        raise
    except Exception as error:  # damaged archives raise whatever zipfile, the XML reader or openpyxl come upon
        said = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise DataError(
            f"not an XLSX file that can be read: {said}",
            where=str(path),
            remedy="open and save it in a spreadsheet program, or save it as CSV",
        ) from None
    finally:
        for one in opened:
            one.close()


def _chosen(book: Any, wanted: str | None, path: Path, remarks: list[str]) -> str:
    shown = [s.title for s in book.worksheets if s.sheet_state == "visible"]
    every = [s.title for s in book.worksheets]
    if wanted is not None:
        if wanted not in every:
            raise DataError(f"there is no sheet '{wanted}'", where=str(path), remedy=did_you_mean(wanted, every))
        return wanted
    if not every:
        raise DataError("the file has no sheet of cells", where=str(path), remedy="give one with a table")
    title = (shown or every)[0]
    others = [f"'{name}'" for name in shown if name != title]
    if others:
        remarks.append(
            f"only the sheet '{title}' of {path.name} is read, not {', '.join(others)}: `sheet` names another"
        )
    return str(title)


def _cells(sheet: Any) -> Iterator[Sequence[Any]]:
    sheet.reset_dimensions()  # what a file says of its size is often wrong
    rows: Iterator[Sequence[Any]] = sheet.iter_rows(values_only=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first = next(rows, None)
    if first is not None:
        yield first
        yield from rows


def _table(path: Path, sheet: Any, empty: _Empty) -> Rows:
    columns: Columns | None = None
    for number, values in enumerate(_cells(sheet), 1):
        cells = [_text(value) for value in values]
        if not any(map(str.strip, cells)):
            continue
        if columns is None:
            columns = Columns(cells, f"{path}:{number}")
            continue
        wanted = len(columns.names)
        cells += [""] * (wanted - len(cells))
        bad = empty.why(number, cells, wanted) or _fault(number, cells)
        yield number, bad or columns.mapping(cells) or columns.fault(cells, "", "", "")


def _text(value: Any) -> str:
    """A cell as text."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        return str(int(value))
    if isinstance(value, datetime.datetime) and value.time() == datetime.time():
        return str(value.date())
    return str(value)


def _fault(number: int, cells: Sequence[str]) -> Bad | None:
    at = next((i for i, cell in enumerate(cells) if cell in _ERRORS), None)
    if at is None:
        return None
    return Bad("row", f"cell {_place(number, at)} holds an error ({cells[at]})", "mend the formula, or empty the cell")


def _place(number: int, column: int) -> str:
    from openpyxl.utils import get_column_letter

    return f"{get_column_letter(column + 1)}{number}"


class _Empty:
    """Why a cell is empty that should not be: a formula without a saved value, or a cell merged with others.

    Both are looked for only where a cell is empty; formulas in a second pass that goes along with the first.
    """

    def __init__(self, path: Path, sheet: Any, formulas: Any):
        self._path, self._sheet, self._formulas = path, sheet, formulas
        self._rows: Iterator[Sequence[Any]] | None = None
        self._at = 0
        self._merged: list[Any] | None = None

    def why(self, number: int, cells: Sequence[str], wanted: int) -> Bad | None:
        """What is wrong with a row's empty cells, if anything is."""
        empty = [i for i in range(wanted) if not cells[i]]
        if not empty:
            return None
        written = self._row(number)
        for i in empty:
            if i < len(written) and isinstance(written[i], str) and written[i].startswith("="):
                reason = f"cell {_place(number, i)} holds a formula, and the file no value of it"
                return Bad("row", reason, "open and save the file in a spreadsheet program")
            if any(self._covers(r, number, i + 1) for r in self._ranges()):
                reason = f"cell {_place(number, i)} is merged with others, of which the first alone holds the value"
                return Bad("row", reason, "take the merge back, and fill in every cell")
        return None

    def _row(self, number: int) -> Sequence[Any]:
        if self._rows is None:
            self._rows = self._formulas()
        row: Sequence[Any] = ()
        while self._at < number:
            row = next(self._rows, ())
            self._at += 1
        return row

    def _ranges(self) -> list[Any]:
        """Ranges of merged cells, which stand behind the rows."""
        if self._merged is None:
            from openpyxl.worksheet.cell_range import CellRange

            self._merged = []
            with ZipFile(self._path) as archive, archive.open(self._sheet._worksheet_path) as sheet:
                for _, element in ElementTree.iterparse(sheet):
                    if element.tag.endswith("}mergeCell"):
                        self._merged.append(CellRange(element.get("ref", "")))
                    element.clear()
        return self._merged

    @staticmethod
    def _covers(merged: Any, row: int, column: int) -> bool:
        first = (merged.min_row, merged.min_col) == (row, column)
        return not first and merged.min_row <= row <= merged.max_row and merged.min_col <= column <= merged.max_col
