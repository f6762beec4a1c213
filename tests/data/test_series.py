"""Series from files as people have them: wide, long and GluonTS's; what is wrong with one, its row and a remedy."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from tunewright.contract.records import RowProblem
from tunewright.data.read import read_all
from tunewright.data.timestamps import step_named, step_of, time_of
from tunewright.errors import DataError
from tunewright.recipe import Source
from tunewright.tasks._series import Step

START = datetime(2020, 1, 1)


def wide(folder, rows=6, change=lambda lines: lines, header="date,a,b"):
    lines = [header, *(f"{START + timedelta(hours=i)},{i},{10 * i}" for i in range(rows))]
    (folder / "wide.csv").write_text("\n".join(change(lines)) + "\n")
    return Source(path="wide.csv", format="series")


def only(folder, source):
    read = read_all(source, folder)
    assert not read.problems, read.problems
    (record,) = read.records
    return record["series"], record, read


def problem(folder, source):
    read = read_all(source, folder)
    assert len(read.problems) == 1, read.problems
    return read.problems[0]


def test_a_wide_file_is_one_series_with_a_channel_a_column(tmp_path):
    series, record, _ = only(tmp_path, wide(tmp_path))
    assert series.names == ("a", "b") and series.step == Step("s", 3600) and series.step.season == 24
    assert series.values.tolist() == [[i, 10 * i] for i in range(6)]
    assert series.wheres[3] == "wide.csv:5" and series.times[3] == "2020-01-01 03:00:00"
    assert record["split"] is None and record.shape == "series"


def test_empty_cells_are_missing_and_text_is_told_of_its_channel(tmp_path):
    def change(lines):
        return [*lines[:2], "2020-01-01 01:00:00,,n/a", *lines[3:]]

    series, _, _ = only(tmp_path, wide(tmp_path, change=change))
    assert np.isnan(series.values[1]).all() and not np.isnan(series.values[[0, 2]]).any()
    fault = series.faults["b"]
    assert fault.where == "wide.csv:3" and fault.field == "b" and "'n/a' is no number" in fault.reason
    assert "data.series.channels" in fault.remedy and "a" not in series.faults


def test_a_long_file_holds_many_series_however_they_are_mixed(tmp_path):
    lines = ["unique_id,ds,y,price"]
    for i in range(4):
        lines += [f"B,2020-0{i + 1},{i},9", f"A,2020-0{i + 1},{-i},9"]
    (tmp_path / "long.csv").write_text("\n".join(lines))
    read = read_all(Source(path="long.csv", format="series"), tmp_path)
    assert [r["series"].name for r in read.records] == ["B", "A"]
    series = read.records[1]["series"]
    assert series.names == ("y",) and series.step == Step("M") and series.step.season == 12
    assert series.values[:, 0].tolist() == [0, -1, -2, -3] and series.wheres[1] == "long.csv:5"
    assert any("price" in remark for remark in read.remarks)
    chosen = Source(path="long.csv", format="series", where={"unique_id": ["A"]})
    assert [r["series"].name for r in read_all(chosen, tmp_path).records] == ["A"]


def test_a_row_of_gluonts_is_a_series(tmp_path):
    rows = [
        {"start": "2020-01-31", "target": [1, None, 3], "freq": "M", "item_id": "x", "feat_static_cat": [1]},
        {"start": "2020-01-01", "target": [[1, 2], [3, 4]], "freq": "15min"},
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for source in (Source(path="rows.jsonl", format="series"), Source(path="rows.jsonl")):
        read = read_all(source, tmp_path)
        one, two = (r["series"] for r in read.records)
        assert one.name == "x" and one.times == ["2020-01-01", "2020-02-01", "2020-03-01"]
        assert np.isnan(one.values[1, 0]) and one.values.shape == (3, 1)
        assert two.values.tolist() == [[1, 3], [2, 4]] and two.step.season == 96
    assert "feat_static_cat is not read" in read_all(Source(path="rows.jsonl", format="series"), tmp_path).remarks[0]


@pytest.mark.parametrize(
    ("change", "where", "said", "remedy"),
    [
        (lambda s: [*s[:3], s[4], s[3], *s[5:]], 5, "stands behind", "sort the rows"),
        (lambda s: [*s[:3], s[2], *s[3:]], 4, "stands there twice", "columns: {id:"),
        (lambda s: [*s[:4], *s[5:]], 5, "is not that of the others", "left empty"),
        (lambda s: [*s[:3], "someday,1,2", *s[4:]], 4, "no time that can be read", "ISO 8601"),
        (lambda s: [*s[:3], ",1,2", *s[4:]], 4, "has no time", "write one"),
        (lambda s: [*s[:3], "2020-01-01 02:00:00+00:00,1,2", *s[4:]], 4, "a time zone", "offset from UTC"),
        (lambda s: [*s[:3], "7,1,2", *s[4:]], 4, "a number", "all alike"),
        (lambda s: s[:2], 2, "one step", "two or more"),
    ],
)
def test_times_out_of_order_are_one_problem_at_their_row(change, where, said, remedy, tmp_path):
    found = problem(tmp_path, wide(tmp_path, change=change))
    assert found.where == f"wide.csv:{where}" and said in found.reason and remedy in found.remedy


def test_a_file_without_a_time_is_told_so(tmp_path):
    found = read_all(wide(tmp_path, header="when,a,b"), tmp_path).problems[0]
    assert "no column holds the time: when, a, b" in found.reason and "timestamp:" in found.remedy
    named = wide(tmp_path, header="when,a,b").model_copy(update={"columns": {"timestamp": "when"}})
    assert only(tmp_path, named)[0].names == ("a", "b")


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"start": "2020", "target": "high", "freq": "D"}, "target"),
        ({"start": "2020-01-01", "target": [1, True], "freq": "D"}, "target"),
        ({"start": "2020-01-01", "target": [[1], [1, 2]], "freq": "D"}, "target"),
        ({"start": "2020-01-01", "target": [1], "freq": "often"}, "freq"),
        ({"start": "2020-01-01", "target": [1]}, "freq"),
        ({"start": "2020-01-01", "target": [1, 2], "freq": "D", "feat_dynamic_real": [[1, 2]]}, "feat_dynamic_real"),
    ],
)
def test_rows_of_gluonts_that_cannot_be_used(row, field, tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    found = problem(tmp_path, Source(path="rows.jsonl", format="series"))
    assert found.where == "rows.jsonl:1" and found.field == field and found.remedy


@pytest.mark.parametrize("how", [{"share": (0.0, 0.5)}, {"permute": 1}, {"streaming": True}])
def test_what_parts_rows_is_refused_of_series(how, tmp_path):
    source = wide(tmp_path).model_copy(update=how)
    with pytest.raises(DataError, match="series"):
        read_all(source, tmp_path)


@pytest.mark.parametrize(
    ("freq", "season"),
    [("h", 24), ("2H", 12), ("15min", 96), ("T", 1440), ("s", 3600), ("D", 1), ("W-SUN", 1), ("B", 5), ("MS", 12)]
    + [("QE-DEC", 4), ("YS", 1), ("5h", 1)],
)
def test_seasons_are_those_of_gluonts(freq, season):
    assert step_named(freq).season == season


@pytest.mark.parametrize(
    ("times", "step"),
    [
        (["2020-01-31", "2020-02-29", "2020-03-31"], Step("M")),
        (["2020-01-01", "2020-04-01", "2020-07-01"], Step("M", 3)),
        (["2020-02", "2020-03", "2020-04"], Step("M")),
        (["2020/01/02", "2020/01/03", "2020/01/06"], Step("B")),
        ([1749, 1750, 1751], Step("#")),
        (["2020-01-01", "2020-01-08", "2020-01-15"], Step("s", 604_800)),
        (["2020-03-29 00:30+01:00", "2020-03-29 01:30+01:00", "2020-03-29 03:30+02:00"], Step("s", 3600)),
    ],
)
def test_steps_are_told_from_times(times, step):
    assert step_of([time_of(t, "ds") for t in times], "ds") == (step, None)


def test_cells_of_tables_of_other_kinds_are_times():
    zoned = datetime(2020, 1, 1, tzinfo=UTC)
    assert time_of(zoned, "ds") == zoned and time_of(START.date(), "ds") == START
    assert time_of(np.int64(3), "ds") == 3.0
    with pytest.raises(RowProblem, match="no time"):
        time_of(float("nan"), "ds")


def test_parquet_is_read_alike(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    source = wide(tmp_path)
    times = [START + timedelta(hours=i) for i in range(6)]
    table = pa.table({"date": times, "a": [float(i) for i in range(6)], "b": [10 * i for i in range(6)]})
    pq.write_table(table, tmp_path / "wide.parquet")
    ours, theirs = (only(tmp_path, Source(path=p, format="series"))[0] for p in (source.path, "wide.parquet"))
    assert theirs.values.tolist() == ours.values.tolist() and theirs.step == ours.step and theirs.names == ours.names
