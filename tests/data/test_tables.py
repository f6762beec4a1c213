"""CSV, TSV and XLSX: cells as they are written, each bad row named with its place, and none that stops the others."""

from __future__ import annotations

import csv
import datetime
import gzip
import io
import re
import sys
import tracemalloc
import zipfile

import openpyxl
import pyarrow as pa
import pytest

from tests import tiny
from tunewright.contract.task import EncodeOptions
from tunewright.data import delimited
from tunewright.data.caution import of_data
from tunewright.data.dataset import build
from tunewright.data.read import read_all, read_lazily
from tunewright.errors import DataError, MissingExtraError
from tunewright.recipe import Source
from tunewright.runs.selecting import subset
from tunewright.tasks import get_task


def read(folder, name, content=None, **more):
    if content is not None:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_all(Source(path=name, **more), folder)


def told(got):
    return [dict(r) for r in got.records], [(p.where, p.reason) for p in got.problems]


def zst(data: bytes) -> bytes:
    out = pa.BufferOutputStream()
    with pa.CompressedOutputStream(out, "zstd") as f:
        f.write(data)
    return out.getvalue().to_pybytes()


@pytest.mark.parametrize(
    "cell", ["007", "1e5", "NA", "None", "null", "nan", "True", "1_000", " a ", "2024-01-31", "#N"]
)
@pytest.mark.parametrize("name, mark", [("t.csv", ","), ("t.tsv", "\t")])
def test_cells_stay_as_they_are_written(tmp_path, cell, name, mark):
    rows, problems = told(read(tmp_path, name, f"text{mark}label\nx{mark}{cell}\n"))
    assert rows == [{"text": "x", "label": cell}] and not problems


@pytest.mark.parametrize(
    "content",
    [
        "text,label\nfoo, bar,x\n".replace("foo, bar", '"foo, bar"'),
        "text;label\nfoo, bar;x\n",
        "text\tlabel\nfoo, bar\tx\n",
        "text|label\nfoo, bar|x\n",
        "sep=;\ntext;label\nfoo, bar;x\n",
        "sep=|\r\ntext|label\r\nfoo, bar|x\r\n",
        "\ufefftext;label\r\nfoo, bar;x\r\n",
        "text;label\rfoo, bar;x\r",
        "\n\n text ; label \nfoo, bar;x\n\n",
        "text;label;;\nfoo, bar;x;;\n;;;\n",
        "text;label\nfoo, bar;x\n".encode("utf-16"),
        "\ufefftext;label\nfoo, bar;x\n".encode("utf-16-be"),
    ],
)
def test_separators_marks_and_ends_of_every_kind(tmp_path, content):
    assert told(read(tmp_path, "t.csv", content)) == ([{"text": "foo, bar", "label": "x"}], [])


@pytest.mark.parametrize("kind, packed", [("gz", gzip.compress), ("zst", zst)])
@pytest.mark.parametrize(
    "name, content, text",
    [
        ("t.csv", "text,label\na,b\n", "a"),
        ("t.tsv", "text\tlabel\na\tb\n", "a"),
        ("t.jsonl", '{"text": "a"}\n', "a"),
        ("t.ndjson", '{"text": "a"}\n', "a"),
        ("t.json", '[{"text": "a"}]', "a"),
        ("t.txt", "a\n", "a"),
        ("t.md", "a\n", "a"),
    ],
)
def test_every_text_kind_may_be_compressed(tmp_path, kind, packed, name, content, text):
    name = f"{name}.{kind}"
    (row,) = read(tmp_path, name, packed(content.encode())).records
    assert row["text"] == text
    noise = "".join(f"{i * 7919 % 1000003}" for i in range(4000))
    whole = packed(content.replace("a", noise, 1).encode())
    with pytest.raises(DataError, match=f"{name}: the {'gzip' if kind == 'gz' else 'zstd'} file is broken") as caught:
        read(tmp_path, name, whole[: len(whole) // 2])
    assert caught.value.remedy


def test_line_ends_inside_a_cell_stay(tmp_path):
    for end in ("\n", "\r\n", "\r"):
        rows = [{"text": f"a{end}b", "label": "x"}, {"text": "c", "label": "y"}]
        got = read(tmp_path, "t.csv", f'text,label{end}"a{end}b",x{end}c,y{end}')
        assert told(got) == (rows, []) and [r.where for r in got.records] == ["t.csv:2", "t.csv:4"]


def test_a_row_is_named_by_the_line_that_it_begins_in_and_by_its_number_where_the_two_part(tmp_path):
    got = read(tmp_path, "t.csv", 'text,label\n"two\nlines",x\n\nfoo,a,b\nbar\nlast,y\n')
    assert [(r.id, r.where) for r in got.records] == [("t.csv:2", "t.csv:2"), ("t.csv:7", "t.csv:7")]
    assert got.records[0]["text"] == "two\nlines"
    assert told(got)[1] == [
        ("t.csv:5", "row 2: 3 cells, and the header names 2 columns"),
        ("t.csv:6", "row 3: 1 cell, and the header names 2 columns"),
    ]


@pytest.mark.parametrize(
    "bad, reason",
    [
        ('"open,2', "a quote is opened and never closed"),
        ('"a "quote" inside",2', "text stands behind a closing quote"),
        ('"he said \\"hi\\"",2', "text stands behind a closing quote"),
        ("a,b,c", "3 cells, and the header names 2 columns"),
        ("a", "1 cell, and the header names 2 columns"),
        ("text,label", "the header stands here again"),
    ],
)
def test_a_bad_row_stops_no_other(tmp_path, bad, reason):
    got = read(tmp_path, "t.csv", f"text,label\na,1\n{bad}\nb,2\n\nc,3\n")
    assert [r["text"] for r in got.records] == ["a", "b", "c"]
    assert told(got)[1] == [("t.csv:3", reason)] and got.problems[0].remedy
    with pytest.raises(DataError, match="t.csv:3"):
        from tunewright.data.read import read_source

        list(read_source(Source(path="t.csv"), tmp_path))


def test_a_quote_that_swallows_rows_gives_them_back(tmp_path):
    got = read(tmp_path, "t.csv", 'text,label\n"open,1\nb,2\nc,3\n"d, e",4\nf,5\n')
    assert [(r["text"], r.where) for r in got.records] == [
        ("b", "t.csv:3"),
        ("c", "t.csv:4"),
        ("d, e", "t.csv:5"),
        ("f", "t.csv:6"),
    ]
    assert told(got)[1] == [("t.csv:2", "a quote is opened and not closed")]


def test_a_quote_that_is_never_closed_takes_no_more_than_a_few_lines_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(delimited, "MOST", 1000)
    monkeypatch.setattr(csv, "field_size_limit", lambda new=None, set_to=csv.field_size_limit: set_to(1000))
    try:
        got = read(tmp_path, "t.csv", 'text,label\n"open,1\n' + "b,2\n" * 2000)
    finally:
        monkeypatch.undo()
        csv.field_size_limit(131072)
    assert len(got.records) == 2000 and told(got)[1] == [("t.csv:2", "a quote is opened and never closed")]


def test_a_very_long_cell_is_read(tmp_path):
    long = "word " * 200_000
    got = read(tmp_path, "t.csv", f"text,label\n{long},1\nb,2\n")
    assert [len(r["text"]) for r in got.records] == [len(long), 1]


def test_no_more_of_a_table_is_held_than_a_row(tmp_path):
    (tmp_path / "t.csv").write_text("text,label\n" + "some words of text,label\n" * 20_000)
    tracemalloc.start()
    count = sum(1 for _ in read_lazily(Source(path="t.csv"), tmp_path).records)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 20_000 and peak < 1 << 20


def test_empty_cells_are_missing_and_empty_rows_are_none(tmp_path):
    book = openpyxl.Workbook()
    for row in (["text", "label"], ["a", None], [None, None], [None, "x"]):
        book.active.append(row)
    book.active.cell(30, 1, " ")
    book.save(tmp_path / "t.xlsx")
    rows = [{"text": "a", "label": None}, {"text": None, "label": "x"}]
    assert told(read(tmp_path, "t.csv", "text,label\na,\n,\n,x\n , \n")) == (rows, [])
    assert told(read(tmp_path, "t.xlsx")) == (rows, [])


def test_an_unnamed_column_gets_the_name_that_pandas_gives_it(tmp_path):
    assert told(read(tmp_path, "t.csv", ",text,label\n0,a,x\n"))[0] == [{"Unnamed: 0": "0", "text": "a", "label": "x"}]


def test_columns_may_be_mapped(tmp_path):
    got = read(tmp_path, "t.csv", "body;topic\na;x\n", columns={"text": "body", "label": "topic"})
    assert told(got)[0] == [{"text": "a", "label": "x"}] and got.records[0].shape == "text-label"


def test_without_a_header_the_message_says_that_it_is_needed(tmp_path):
    (problem,) = read(tmp_path, "t.csv", "I lost my card,card lost\nfees,fee\n").problems
    assert "I lost my card, card lost" in problem.reason and "first line must name its columns" in problem.remedy


@pytest.mark.parametrize(
    "name, content, says",
    [
        ("t.csv", "text,text\na,b\n", "t.csv:1: two columns are called 'text'"),
        ("t.csv", "\n1,2\na,b\n", "t.csv:2: the first line names no columns: 1, 2"),
        ("t.csv", 'text,"la"bel\na,b\n', "t.csv:1: the header cannot be read"),
        ("t.csv", "text,label\n", "there are no rows"),
        ("t.csv", "text,label\ncaf\u00e9,x\n".encode("latin-1"), "t.csv:2: not UTF-8 text .byte 0xe9."),
        ("t.csv", "text,label\na,x\n".encode("utf-16")[:-1], "t.csv: not UTF-16"),
        ("t.csv", b"text,label\n\0,x\n", "the file is binary"),
        ("t.xls", "text", "'.xls' cannot be read\n  -> save it as .xlsx"),
        ("t.xlsx", "text", "not an XLSX file that can be read: File is not a zip file"),
        ("t.xlsx", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "old .xls file or one with a password"),
    ],
)
def test_files_that_are_no_tables(tmp_path, name, content, says):
    with pytest.raises(DataError, match=says) as caught:
        read(tmp_path, name, content)
    assert caught.value.remedy


@pytest.fixture
def book(tmp_path):
    made = openpyxl.Workbook()
    sheet = made.active
    sheet.title = "Main"
    for row in (
        ["text", "label", "n"],
        ["a", True, 7],
        ["b", datetime.datetime(2024, 1, 31), 0.5],
        ["c", datetime.datetime(2024, 1, 31, 10, 30), 1e5],
        ["d", "=A1", 1],
        ["e", "#N/A", 1],
        ["f", "top", 1],
        ["g", None, 1],
        ["h", "007", None],
    ):
        sheet.append(row)
    sheet.merge_cells("B7:B8")
    made.create_sheet("Hidden", 0).sheet_state = "hidden"
    made.create_sheet("More").append(["text"])
    made["More"].append(["other"])
    made.save(tmp_path / "t.xlsx")
    return tmp_path


def test_a_sheets_cells_are_text_as_they_would_be_in_a_csv_file(book):
    got = read(book, "t.xlsx")
    assert [(r.where, r["label"], r["n"]) for r in got.records] == [
        ("t.xlsx:2", "TRUE", "7"),
        ("t.xlsx:3", "2024-01-31", "0.5"),
        ("t.xlsx:4", "2024-01-31 10:30:00", "100000"),
        ("t.xlsx:7", "top", "1"),
        ("t.xlsx:9", "007", None),
    ]
    assert told(got)[1] == [
        ("t.xlsx:5", "cell B5 holds a formula, and the file no value of it"),
        ("t.xlsx:6", "cell B6 holds an error (#N/A)"),
        ("t.xlsx:8", "cell B8 is merged with others, of which the first alone holds the value"),
    ]


def test_one_sheet_is_read_and_the_others_are_named(book):
    assert read(book, "t.xlsx").remarks == [
        "only the sheet 'Main' of t.xlsx is read, not 'More': `sheet` names another"
    ]
    got = read(book, "t.xlsx", sheet="More")
    assert told(got)[0] == [{"text": "other"}] and not got.remarks
    with pytest.raises(DataError, match="no sheet 'Mor'\n  -> did you mean 'More'"):
        read(book, "t.xlsx", sheet="Mor")
    with pytest.raises(DataError, match="it has no sheet: that is of an XLSX file"):
        read(book, "t.csv", "text\na\n", sheet="More")


def test_cells_beside_the_columns_of_a_sheet_are_refused_in_their_row(tmp_path):
    made = openpyxl.Workbook()
    for row in (["text", None, None], ["a", None, None], ["b", None, "c"]):
        made.active.append(row)
    made.save(tmp_path / "t.xlsx")
    got = read(tmp_path, "t.xlsx")
    assert told(got) == ([{"text": "a"}], [("t.xlsx:3", "3 cells, and the header names 1 column")])
    assert got.problems[0].remedy.startswith("name every column in the first row")


def test_a_run_says_what_is_not_read_on_every_page(book, tmp_path):
    task, options = get_task("text-generation"), EncodeOptions()
    dataset = build(
        [Source(path="t.xlsx", sheet=None)], task, tiny.tokenizer(), options, tmp_path / "c", base=book, problems="skip"
    )
    said, bad = of_data([subset(dataset, [0, 1])], {})
    assert "cannot be used and are left out" in bad
    assert said == "t.xlsx: only the sheet 'Main' of t.xlsx is read, not 'More': `sheet` names another"


def test_the_cache_tells_sheets_apart(book, tmp_path):
    task, options = get_task("text-generation"), EncodeOptions()
    both = [
        build(
            [Source(path="t.xlsx", sheet=name)],
            task,
            tiny.tokenizer(),
            options,
            tmp_path / "c",
            base=book,
            problems="skip",
        )
        for name in ("Main", "More")
    ]
    assert [len(d.rows) for d in both] == [5, 1]


def test_a_formula_gives_the_value_that_was_saved_with_it(book):
    """Spreadsheet programs write both; openpyxl writes the formula alone, so the value is put in by hand."""

    def with_value(body):
        empty = b"<v></v>" if b"<v></v>" in body else b"<v />"
        return body.replace(b'<c r="B5"><f>A1</f>' + empty, b'<c r="B5" t="str"><f>A1</f><v>text</v>')

    changed(book / "t.xlsx", with_value)
    assert {"text": "d", "label": "text", "n": "1"} in told(read(book, "t.xlsx"))[0]


def test_a_sheet_may_say_a_wrong_size(book):
    before = told(read(book, "t.xlsx"))
    changed(book / "t.xlsx", lambda body: re.sub(rb'<dimension ref="[^"]*"', b'<dimension ref="A1:A1"', body))
    assert told(read(book, "t.xlsx")) == before


def changed(path, change):
    """Change the sheets of an XLSX file, as it is written."""
    with zipfile.ZipFile(path) as archive:
        members = {n: archive.read(n) for n in archive.namelist()}
    new = {n: change(body) if "worksheets/sheet" in n else body for n, body in members.items()}
    assert new != members
    with zipfile.ZipFile(path, "w") as archive:
        for name, body in new.items():
            archive.writestr(name, body)


def test_without_openpyxl_one_line_says_which_extra_is_missing(book, monkeypatch):
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(MissingExtraError, match=r"need openpyxl.*\n  -> pip install 'tunewright\[xlsx\]'"):
        read(book, "t.xlsx")


def test_a_separator_in_texts_does_not_hide_the_files_own(tmp_path):
    rows = [(f"one, two; three {i}", "x") for i in range(30)]
    for mark in delimited.SEPARATORS:
        out = io.StringIO()
        csv.writer(out, delimiter=mark).writerows([("text", "label"), *rows])
        assert [(r["text"], r["label"]) for r in read(tmp_path, "t.csv", out.getvalue()).records] == rows
