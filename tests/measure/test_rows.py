from __future__ import annotations

import json

import pytest

from tunewright.errors import DataError
from tunewright.measure.rows import RowResult, pair, read_rows, write_rows


def _results(answers):
    return [
        RowResult(id=f"t.jsonl:{i}", source="t", prompt="p", answer=a, reference="ref é", score=float(a == "ref é"))
        for i, a in enumerate(answers)
    ]


def test_rows_come_back_as_written(tmp_path):
    rows = pair(_results(["no", "ref é"]), _results(["ref é", "ref é"]))
    write_rows(tmp_path / "rows.jsonl", rows)
    assert list(read_rows(tmp_path / "rows.jsonl")) == rows
    first = json.loads((tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert list(first)[:6] == ["id", "source", "prompt", "base", "tuned", "reference"]
    assert (first["base"], first["tuned"], first["base_score"], first["tuned_score"]) == ("no", "ref é", 0.0, 1.0)
    assert [p.name for p in tmp_path.iterdir()] == ["rows.jsonl"]


def test_other_rows_are_not_paired():
    with pytest.raises(ValueError, match="same rows"):
        pair(_results(["a"]), _results(["a", "b"]))


def test_an_altered_line_is_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    write_rows(path, pair(_results(["a"]), _results(["b"])))
    path.write_text(path.read_text(encoding="utf-8") + '{"id": "x"}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"rows.jsonl:2"):
        list(read_rows(path))
