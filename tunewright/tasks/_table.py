"""A table's row as a text for a text encoder, "age: 39; job: clerk;", and what is learnt of the columns for it.

What a column is (number, category, date, free text), its mean, spread and quantiles are those of the training rows
alone; they travel with the model (`data.table.learnt` of its run, `table.json` beside an exported one), so that a row
is written the same wherever it is read. Rows as "column: value" for a pre-trained text model are TabLLM's (Hegselmann
et al. 2023, arXiv:2210.10723, section 3) and TransTab's (Wang and Sun 2022, arXiv:2205.09328).

- Each cell is its column's name, ": ", its value and ";". Spaces and line ends of a value are one space each, "; " in
  it becomes ", ", and a name's ":" a space, so that a text says which cells it was made of.
- Numbers keep `digits` significant digits, and all before the point; or are written as the quantile bin that they lie
  in ("3 of 10"). `scaled` gives each cell's tokens a factor, 1 + z / 4 with z = (x - mean) / std held to 3 at most.
- Rows that are too long are cut by cell: the longest text first, whole cells from the end where that is not enough.

A layout is plain JSON values: `columns` (each `name`, `shown`, `kind`, `values`, `fault`, of numbers `mean`, `std` and
`edges`), `target` (of a regression, its `mean` and `std`), and the options of `recipe.tables.TableSpec`.
"""

from __future__ import annotations

import datetime
import math
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tunewright.contract.records import RowProblem, finite
from tunewright.tasks._parts import CATEGORY, DATE, NUMBER, TEXT

Layout = Mapping[str, Any]
Cells = Mapping[str, Any]
MISSING = "missing"
"""What an empty cell is written as, where it is written."""
NONE = frozenset({"na", "n/a", "nan", "null", "none", "?", "-", ""})
"""Texts that are an empty cell in a column of numbers or dates."""
NUMBERS = 0.9
"""The share of a column's values from which on it is one of numbers (dates), and others are slips."""
SHORT, FEW = 4.0, 20
"""Words of a value up to which, on average, a column is of categories; and values that are always few."""
SCALE, MOST = 4.0, 3.0
"""What the standardised value of a number is divided by before it scales embeddings, and how far it may lie."""
IDS = 20
"""Rows from which on a column with another value in each is told."""
_CODE = re.compile(r"[+-]?0\d")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}([T ].*)?")


def number_in(value: Any) -> float | None:
    """The finite number of a cell; None for anything else. Not of true and false, nor of codes as 007."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        value = value.strip()
        if "_" in value or _CODE.match(value):
            return None
    return finite(value)


def moment_in(value: Any) -> float | None:
    """Days since 1970 of a cell that holds a date as ISO writes it; None for anything else."""
    if not isinstance(value, str) or not _DATE.fullmatch(value.strip()):
        return None
    try:
        found = datetime.datetime.fromisoformat(value.strip())
    except ValueError:
        return None
    if found.tzinfo is not None:
        found = found.astimezone(datetime.UTC).replace(tzinfo=None)
    return (found - datetime.datetime(1970, 1, 1)) / datetime.timedelta(days=1)


def is_empty(value: Any, kind: str = TEXT) -> bool:
    """Whether a cell is missing; of numbers and dates words as NA say it, too."""
    if value is None or isinstance(value, float) and math.isnan(value):
        return True
    if not isinstance(value, str):
        return False
    return not value.strip() or kind in (NUMBER, DATE) and value.strip().lower() in NONE


def said(value: Any) -> str:
    """A cell that is no number of a column of numbers, as a text of one line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value == int(value) and abs(value) < 1e15:
        value = int(value)
    return " ".join(str(value).split()).replace("; ", ", ")


def kind_of(values: Sequence[Any]) -> str:
    """What a column holds, by its values that are not missing: `number`, `date`, `category` or `text`."""
    if not values:
        return CATEGORY
    coded = any(isinstance(v, str) and _CODE.match(v.strip()) for v in values)  # 03086 is no 3,086
    for kind, read in ((DATE, moment_in),) if coded else ((NUMBER, number_in), (DATE, moment_in)):
        there = [v for v in values if not is_empty(v, kind)]
        if there and sum(read(v) is not None for v in there) >= NUMBERS * len(there):
            return kind
    texts = [said(v) for v in values]
    if sum(len(t.split()) for t in texts) > SHORT * len(texts):
        return TEXT
    return CATEGORY if len(set(texts)) <= max(FEW, len(texts) / 2) else TEXT


def learn(
    rows: Iterable[Cells], features: Sequence[str] | None, types: Mapping[str, str], bins: int
) -> list[dict[str, Any]]:
    """The columns of training rows. Equal rows in any order give equal columns, but for the order of these where
    `features` names none: the first row's. RowProblem for names that no row has.
    """
    held: dict[str, list[Any]] = {name: [] for name in features or ()}
    count = 0
    for cells in rows:
        count += 1
        for name, value in cells.items():
            if features is None or name in held:
                held.setdefault(name, []).append(value)
    for name in types:
        if name not in held:
            raise RowProblem(name, f"data.table.types names '{name}', which is no column of the training rows", _HAVE)
    for name, values in held.items():
        if not values:
            raise RowProblem(name, f"data.features names '{name}', which no training row has", _HAVE)
    names = _shown(list(held))
    return [
        _column(n, names[n], [v for v in values if not is_empty(v)], types.get(n), bins, count)
        for n, values in held.items()
    ]


_HAVE = "name a column of the file"


def _column(name: str, shown: str, values: list[Any], kind: str | None, bins: int, rows: int) -> dict[str, Any]:
    kind = kind or kind_of(values)
    texts = {said(v) for v in values if not is_empty(v, kind)}
    column: dict[str, Any] = {"name": name, "shown": shown, "kind": kind, "values": len(texts)}
    read = {NUMBER: number_in, DATE: moment_in}.get(kind)
    numbers = sorted(x for v in values if (x := read(v)) is not None) if read is not None else []
    column["fault"] = _fault(kind, texts, numbers, rows)
    if kind == NUMBER:
        column |= {**spread(numbers), "edges": edges(numbers, bins)}
    return column


def _fault(kind: str, texts: set[str], numbers: Sequence[float], rows: int) -> str:
    """What is the matter with a column from which nothing can be learnt; empty where nothing is."""
    if not texts:
        return "empty"
    if len(texts) == 1 and rows > 1:
        return "constant"
    if rows < IDS or len(texts) < rows:
        return ""
    if kind == NUMBER:
        counted = all(x == int(x) for x in numbers) and numbers[-1] - numbers[0] <= 2 * rows
        return "unique" if counted else ""
    return "unique" if kind != DATE and not any(" " in t for t in texts) else ""


def spread(numbers: Sequence[float]) -> dict[str, float]:
    """`mean` and `std` of numbers, the same in any order; a std of 1 where all are equal."""
    if not numbers:
        return {"mean": 0.0, "std": 1.0}
    largest = max(1.0, *(abs(x) for x in numbers))  # squares of huge numbers are none
    scaled = [x / largest for x in numbers]
    mean = math.fsum(scaled) / len(scaled)
    std = math.sqrt(math.fsum((x - mean) ** 2 for x in scaled) / len(scaled))
    return {"mean": mean * largest, "std": std * largest if std > 1e-12 * abs(mean) and std * largest > 0 else 1.0}


def edges(numbers: Sequence[float], bins: int) -> list[float]:
    """What parts numbers in rising order into bins of about equally many, each edge once: a number at an edge lies in
    the bin above it.
    """
    if not numbers:
        return []
    places = (k * len(numbers) // bins for k in range(1, bins))
    return sorted({numbers[p] for p in places} - {numbers[0]})


def _shown(names: Sequence[str]) -> dict[str, str]:
    """What columns are called in texts: no two alike, without colons."""
    out: dict[str, str] = {}
    for k, name in enumerate(names, 1):
        plain = " ".join(name.replace(":", " ").replace("; ", ", ").split()) or f"column {k}"
        while plain in out.values():
            plain += "'"
        out[name] = plain
    return out


def written(x: float, digits: int) -> str:
    """A number with so many significant digits, and all that stand before its point: 39, 1234567, 0.1235, 6.022e+23."""
    if x == int(x) and abs(x) < 1e15:
        return str(int(x))
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(x))))
    if abs(x) >= 1e15 or decimals > 12:
        mantissa, _, power = f"{x:.{digits - 1}e}".partition("e")
        return f"{mantissa.rstrip('0').rstrip('.') if '.' in mantissa else mantissa}e{power}"
    text = f"{x:.{decimals}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text


def told(z: float, mean: float, std: float) -> str:
    """A standardised prediction in the target's unit, to a ten-thousandth of its spread: what is beyond is rounding."""
    return f"{round(mean + std * z, 4 - math.floor(math.log10(std))):.10g}"


def value_of(value: Any, column: Mapping[str, Any], layout: Layout) -> str | None:
    """A cell's value as it is written; None for one that is missing. RowProblem for text in a column of numbers or
    dates.
    """
    kind = column["kind"]
    if is_empty(value, kind):
        return None
    if kind == NUMBER:
        number = number_in(value)
        if number is None:
            raise _no(column, value, "number")
        if layout["numbers"] == "bins":
            return f"{bisect_right(column['edges'], number) + 1} of {len(column['edges']) + 1}"
        return written(number, layout["digits"])
    if kind == DATE and moment_in(value) is None:
        raise _no(column, value, "date")
    return said(value)


def _no(column: Mapping[str, Any], value: Any, what: str) -> RowProblem:
    name = column["name"]
    return RowProblem(
        name,
        f"{str(value)[:40]!r} is no {what}, and the training rows have {what}s in this column",
        f"correct it, leave the cell empty, or say what the column is: data.table: {{types: {{{name}: text}}}}",
    )


def plain_text(cells: Cells) -> str:
    """Cells as they stand as one text, before anything is known of the columns: what methods of texts read."""
    there = ((name, said(value)) for name, value in cells.items() if value is not None)
    return " ".join(f"{name}: {value};" for name, value in there)


def parts_of(cells: Cells, layout: Layout) -> list[tuple[Mapping[str, Any], str]]:
    """(column, value as it is written) of each cell of a row, in order; RowProblem for a column that the row lacks, and
    for a row without any value.
    """
    out = []
    for column in layout["columns"]:
        name = column["name"]
        if name not in cells:
            remedy = "add it (null, or an empty cell, where a value is missing), or leave the column out: data.features"
            raise RowProblem(name, f"the row has no column '{name}', which the training rows have", remedy)
        value = value_of(cells[name], column, layout)
        if value is None and layout["missing"] == "write":
            value = MISSING
        if value is not None:
            out.append((column, value))
    if not out:
        raise RowProblem("row", "every cell that is read is empty", "fill some in, or take the row out")
    return out


def text_of(parts: Sequence[tuple[Mapping[str, Any], str]]) -> str:
    """The text of a row's cells."""
    return " ".join(f"{column['shown']}: {value};" for column, value in parts)


def places_of(parts: Sequence[tuple[Mapping[str, Any], str]]) -> list[int]:
    """Where each cell begins in `text_of`, in characters, and where the last one ends."""
    out, at = [], 0
    for column, value in parts:
        out.append(at)
        at += len(f"{column['shown']}: {value}; ")
    return [*out, at - 1]


def factor(value: Any, column: Mapping[str, Any]) -> float:
    """What scales the embeddings of a cell's tokens: 1 for all but numbers, and for the mean."""
    number = number_in(value) if column["kind"] == NUMBER else None
    if number is None:
        return 1.0
    z = (number - column["mean"]) / column["std"]
    return 1.0 + max(-MOST, min(MOST, z)) / SCALE


def fitted(
    parts: list[tuple[Mapping[str, Any], str]], size: Any, most: int
) -> tuple[list[tuple[Mapping[str, Any], str]], bool]:
    """(cells that fit, whether any was cut): the longest text loses words until `size(text)` tokens are `most` at most;
    where no text has any to lose, the last cells go, but for the first.
    """
    cut = False
    while size(text_of(parts)) > most:
        cut = True
        long = [i for i, (c, v) in enumerate(parts) if c["kind"] in (TEXT, CATEGORY) and len(v.split()) > 1]
        if not long:
            if len(parts) == 1:
                break
            parts = parts[:-1]
            continue
        at = max(long, key=lambda i: len(parts[i][1]))
        column, value = parts[at]
        over = size(text_of(parts)) - most
        words = value.split()
        fewer = max(1, len(words) - max(1, over // 3))  # a word has about that many tokens, or fewer
        parts = [*parts[:at], (column, " ".join(words[:fewer])), *parts[at + 1 :]]
    return parts, cut


def described(layout: Layout) -> str:
    """The columns in words: "age: number, job: category of 12, note: text"."""

    def one(column: Mapping[str, Any]) -> str:
        kind = column["kind"]
        return f"{column['name']}: {kind} of {column['values']}" if kind == CATEGORY else f"{column['name']}: {kind}"

    return ", ".join(map(one, layout["columns"]))


def faults(layout: Layout) -> Iterator[str]:
    """What to say of columns from which nothing can be learnt."""
    told = {
        "unique": "another value in every training row, as numbers of rows have: nothing can be learnt from it",
        "constant": "the same value in every training row: nothing can be learnt from it",
        "empty": "no value in any training row: nothing can be learnt from it",
    }
    for column in layout["columns"]:
        if column["fault"]:
            yield f"the column '{column['name']}' has {told[column['fault']]}; leave it out with data.features"
