"""Folders that are written aside and renamed, while another process does the same."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tunewright.errors import FolderError
from tunewright.files.cache import written_aside


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Folders at which another process puts its own, the moment before ours would be renamed to them."""
    places: list[Path] = []
    rename = os.rename

    def beaten(source: Path, target: Path) -> None:
        if target in places:
            places.remove(target)
            target.mkdir()
            (target / "of").write_text("another")
        rename(source, target)

    monkeypatch.setattr(os, "rename", beaten)
    return places


def put(target: Path, **how: bool) -> None:
    with written_aside(target, **how) as aside:
        (aside / "of").write_text("this one")


@pytest.mark.parametrize(("how", "stands"), [({"keep": True}, "another"), ({"replace": True}, "this one")])
def test_of_two_that_write_one_folder_each_ends_well(
    tmp_path: Path, late: list[Path], how: dict[str, bool], stands: str
) -> None:
    late.append(tmp_path / "x")
    put(tmp_path / "x", **how)
    assert (tmp_path / "x/of").read_text() == stands and os.listdir(tmp_path) == ["x"]


def test_what_another_has_written_meanwhile_is_not_lost(tmp_path: Path, late: list[Path]) -> None:
    late.append(tmp_path / "x")
    with pytest.raises(FolderError, match="not empty"):
        put(tmp_path / "x")
    assert (tmp_path / "x/of").read_text() == "another" and os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("how", [{}, {"keep": True}, {"replace": True}])
def test_an_empty_folder_is_filled(tmp_path: Path, how: dict[str, bool]) -> None:
    (tmp_path / "x").mkdir()
    put(tmp_path / "x", **how)
    assert (tmp_path / "x/of").read_text() == "this one" and os.listdir(tmp_path) == ["x"]
