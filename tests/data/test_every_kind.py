"""Any table reads to the same records, whatever kind of file it is written as; and what each says of its faults."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

from tunewright.data.read import read_all
from tunewright.recipe import Source

datasets.disable_progress_bars()
Table = tuple[list[str], list[list[str | None]]]


def jsonl(table: Table, path: Path) -> None:
    names, rows = table
    path.write_text("".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows))


def array(table: Table, path: Path) -> None:
    names, rows = table
    path.write_text(json.dumps([dict(zip(names, row, strict=True)) for row in rows]))


def delimited(mark: str, quoting: int = csv.QUOTE_MINIMAL) -> Callable[[Table, Path], None]:
    def write(table: Table, path: Path) -> None:
        with path.open("w", newline="", encoding="utf-8") as f:
            csv.writer(f, delimiter=mark, quoting=quoting).writerows([table[0], *table[1]])

    return write


def packed(table: Table, path: Path) -> None:
    delimited(",")(table, path.with_suffix(""))
    path.write_bytes(gzip.compress(path.with_suffix("").read_bytes()))


def sheet(table: Table, path: Path) -> None:
    book = openpyxl.Workbook(write_only=True)
    page = book.create_sheet("Rows")
    for row in (table[0], *table[1]):
        cells = [openpyxl.cell.WriteOnlyCell(page, value) for value in row]
        for cell in cells:
            if cell.value is not None:
                cell.data_type = "s"  # "=1" is text here, no formula
        page.append(cells)
    book.save(path)


def arrow_table(table: Table) -> pa.Table:
    names, rows = table
    return pa.table({name: pa.array([row[i] for row in rows], pa.string()) for i, name in enumerate(names)})


def ipc(new: Callable[..., Any]) -> Callable[[Table, Path], None]:
    def write(table: Table, path: Path) -> None:
        made = arrow_table(table)
        with new(str(path), made.schema) as f:
            f.write_table(made, max_chunksize=2)

    return write


KINDS: dict[str, Callable[[Table, Path], None]] = {
    "t.json": array,
    "t.csv": delimited(","),
    "semicolons.csv": delimited(";"),
    "quoted.csv": delimited("|", csv.QUOTE_ALL),
    "t.tsv": delimited("\t"),
    "t.csv.gz": packed,
    "t.xlsx": sheet,
    "t.parquet": lambda table, path: pq.write_table(arrow_table(table), path, row_group_size=2),
    "t.arrow": ipc(pa.ipc.new_file),
    "stream.arrow": ipc(pa.ipc.new_stream),
    "saved": lambda table, path: datasets.Dataset(datasets.table.InMemoryTable(arrow_table(table))).save_to_disk(path),
}

USUAL = ["007", "1e5", "NA", "None", "null", "true", "TRUE", "-1", "1.0", "nan", "=1+1", "'x", "a,b", "a;b", "a\tb"]
USUAL += [
    'say "yes"',
    '"',
    "two\nlines",
    "|",
    " x ",
    "\u00e9\U0001f642",
    "#N",
    "2024-01-31",
    "\\",
    "{}",
    "[1]",
    "a" * 300,
]
CELLS = st.one_of(
    st.sampled_from(USUAL),
    st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=12),
).filter(lambda t: t.strip() and not ILLEGAL_CHARACTERS_RE.search(t) and "_x" not in t)
NAMES = st.sampled_from(["label", "note", "id", "Ma\u00df", "a b", "x,y", 'the "one"', "semi;colon", "bar|red"])


@st.composite
def tables(draw: st.DrawFn) -> Table:
    names = draw(st.permutations(["text", *draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))]))
    row = st.tuples(*[CELLS if name == "text" else st.none() | CELLS for name in names]).map(list)
    return names, draw(st.lists(row.filter(lambda cells: cells != names), min_size=1, max_size=6))


def records(folder: Path, name: str) -> list[dict[str, Any]]:
    got = read_all(Source(path=name), folder)
    assert not got.problems, [str(p) for p in got.problems]
    assert len({r.id for r in got.records}) == len(got.records)
    return [dict(r) for r in got.records]


@given(table=tables())
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_table_reads_to_the_same_records_from_every_kind(tmp_path_factory, table):
    folder = tmp_path_factory.mktemp("kinds")
    jsonl(table, folder / "t.jsonl")
    expected = records(folder, "t.jsonl")
    assert [list(row.values()) for row in expected] == table[1]
    for name, write in KINDS.items():
        write(table, folder / name)
        assert records(folder, name) == expected, name


PLAIN = st.text("ab \u00e9;|'", max_size=6).map(str.strip)
BAD = st.sampled_from(['"open', 'a"b,"c"d', "a,b,c,d", '"x"y,1', "lonely", '1,"open,2', "text,label,note"])


@given(
    rows=st.lists(st.tuples(PLAIN.filter(bool), PLAIN, PLAIN).map(list), max_size=6),
    bad=st.lists(st.tuples(st.integers(0, 6), BAD), max_size=4),
)
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
def test_bad_lines_among_the_rows_of_a_csv_file_cost_none_of_them(tmp_path_factory, rows, bad):
    folder = tmp_path_factory.mktemp("bad")
    lines = [(",".join(row), True) for row in rows]
    for at, line in bad:
        lines.insert(min(at, len(lines)), (line, False))
    text = "\n".join(["text,label,note", *(line for line, _ in lines), "last,1,2"])
    (folder / "t.csv").write_text(text, encoding="utf-8")
    got = read_all(Source(path="t.csv"), folder)
    good = [i for i, (_, fine) in enumerate(lines, 2) if fine]
    assert [r.where for r in got.records] == [f"t.csv:{i}" for i in [*good, len(lines) + 2]]
    assert [[r[n] or "" for n in ("text", "label", "note")] for r in got.records[:-1]] == rows
    assert [p.where for p in got.problems] == [f"t.csv:{i}" for i, (_, fine) in enumerate(lines, 2) if not fine]


FAULTS: list[tuple[str, bytes, str, str]] = [
    # file, content, what is said, what to do
    ("t.csv", b"", "t.csv: the file is empty", "give a file with at least one row"),
    ("t.csv", b"text\n", "there are no rows", "give a file with at least one row"),
    ("t.csv", b"text,label\n\xe9,x\n", "t.csv:2: not UTF-8 text (byte 0xe9)", "save it as UTF-8"),
    ("t.csv", b"text,text\na,b\n", "t.csv:1: two columns are called 'text'", "rename one of them"),
    ("t.csv", b"3,4\n5,6\n", "t.csv:1: the first line names no columns: 3, 4", "text,label"),
    ("t.csv", b"\0\0", "the file is binary, not text", "CSV"),
    ("t.csv.gz", b"text\na\n", "the gzip file is broken", "copy or compress it again"),
    ("t.csv.zst", b"text\na\n", "the zstd file is broken", "copy or compress it again"),
    ("t.xlsx", b"text", "not an XLSX file that can be read", "save it as CSV"),
    ("t.xlsx", b"PK\x03\x04", "not an XLSX file that can be read", "save it as CSV"),
    ("t.xlsx", b"\xd0\xcf\x11\xe0", "an old .xls file or one with a password", "save it as .xlsx"),
    ("t.xls", b"x", "files that end in '.xls' cannot be read", "save it as .xlsx"),
    ("t.parquet", b"PAR1", "not a Parquet file that can be read", "write it again, or give JSONL"),
    ("t.arrow", b"ARROW1\0\0", "not an Arrow file that can be read", "write it again, or give JSONL"),
    ("t.arrow", b"\xff" * 99, "not an Arrow file that can be read", "write it again, or give JSONL"),
    ("t.feather", b"FEA1", "not an Arrow file that can be read", "write it again, or give JSONL"),
    ("t.json", b'{"text": "a"}', "an array of objects is needed, not dict", "write [{...}, {...}]"),
    ("t.jsonl.bz2", b"x", "files that end in '.bz2' cannot be read", "jsonl, ndjson, json, csv"),
]


@pytest.mark.parametrize("name, content, says, remedy", FAULTS)
def test_faults_of_whole_files(tmp_path, name, content, says, remedy):
    from tunewright.errors import DataError

    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_all(Source(path=name), tmp_path)
    assert says in f"{caught.value.where}: {caught.value.what}" and remedy in caught.value.remedy


def test_the_page_names_every_kind_and_shape():
    from tunewright.data import files
    from tunewright.data.shapes import SHAPES

    page = (Path(__file__).parents[2] / "docs" / "data-formats.md").read_text(encoding="utf-8")
    for kind in (*files.READERS, *files.SHEETS):
        assert all(f"`.{part}`" in page for part in kind.split(".")), kind
    order = page.split("## Columns")[1].split(". Further")[0]
    assert all(f"`{column}`" in order for shape in SHAPES for column in shape.columns)
