"""Encoded rows on disk, where several processes may write the same ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tunewright.contract.batch import Row
from tunewright.data.store import StoredRows, Writer, is_whole

ROWS = [Row(f"r{i}", "s", (1, 2, 3 + i), [1.0, 0.5, 0.0]) for i in range(3)]


def write(folder: Path) -> None:
    with Writer(folder) as writer:
        writer.extend(ROWS)
        writer.finish({"source": "s"})


def test_rows_that_another_process_has_put_in_place_meanwhile_stay(tmp_path: Path) -> None:
    folder = tmp_path / "rows" / "key"
    with Writer(folder) as late:
        late.extend(ROWS)
        write(folder)
        there = folder.stat().st_ino
        late.finish({"source": "s"})
    assert folder.stat().st_ino == there, "somebody may be reading it"
    assert [p.name for p in folder.parent.iterdir()] == ["key"]
    assert [list(r.input_ids) for r in StoredRows(folder, "s")] == [list(r.input_ids) for r in ROWS]


def test_rows_put_in_place_between_the_look_and_the_rename_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, looked = tmp_path / "rows" / "key", []

    def look(asked: Path) -> bool:
        found = is_whole(asked)
        if not looked:
            looked.append(asked)
            write(folder)
            looked.append(folder.stat().st_ino)
        return found

    monkeypatch.setattr("tunewright.data.store.is_whole", look)
    write(folder)
    assert is_whole(folder)
    assert not looked or folder.stat().st_ino == looked[1], "somebody may be reading it"


def test_rows_that_are_not_whole_are_put_in_place_anew(tmp_path: Path) -> None:
    folder = tmp_path / "rows" / "key"
    write(folder)
    (folder / "rows.jsonl").write_bytes(b"")
    assert not is_whole(folder)
    write(folder)
    assert is_whole(folder) and len(StoredRows(folder, "s")) == 3
    assert [p.name for p in folder.parent.iterdir()] == ["key"], "nothing is left beside it"
    shutil.rmtree(folder)
    folder.mkdir()
    write(folder)
    assert is_whole(folder)
