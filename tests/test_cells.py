"""Benchmarks of many cells: what is run, kept and written."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import cells

PLACES = [(SimpleNamespace(name=place), name) for place in ("here", "there") for name in ("one", "two")]


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the command line; the cells that were run by it."""

    def go(*arguments: str) -> list[str]:
        done: list[str] = []

        def run_cell(place: Any, name: str, source: Path, folder: Path) -> dict[str, Any]:
            assert source == tmp_path and folder == tmp_path / "work" / place.name
            done.append(f"{place.name} {name}")
            return {"refused": "no"} if name == "two" else {"figures": {"targets": [0.5], "rate": 0.1}}

        words = ["cells", "--data", str(tmp_path), "--work", str(tmp_path / "work"), *arguments]
        monkeypatch.setattr(sys, "argv", words)
        page = (tmp_path / "page.md", lambda known: "\n".join(known))
        cells.main("Cells.", ("place", "name"), tmp_path / "kept.json", page, iter(PLACES), run_cell)
        return done

    return go


def test_a_cell_is_run_once_and_stands_on_the_page(ran: Any, tmp_path: Path) -> None:
    assert ran("--only", "there") == ["there one", "there two"]
    assert ran("--name", "one") == ["here one"], "the other is known"
    assert ran("--page") == [] and (tmp_path / "page.md").read_text() == "there one\nthere two\nhere one"
    assert json.loads((tmp_path / "kept.json").read_text())["there two"] == {"refused": "no"}
    assert ran("--minutes", "-1") == [], "it is later than that"
    assert ran() == ["here two"]
