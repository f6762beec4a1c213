"""What is told while something takes long: nothing before its time, then how far it is; a run in its own way."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.small import write_inputs, write_recipe
from tunewright.data.read import read_all
from tunewright.loading import load as loading
from tunewright.machine import going
from tunewright.planning.check import check_recipe
from tunewright.recipe import Recipe, Source
from tunewright.runs.assemble import assemble


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines that are due all the time."""
    monkeypatch.setattr(going, "EVERY", 0.0)


def test_items_are_counted_while_they_come(at_once: None) -> None:
    said: list[str] = []
    with going.telling(said.append):
        assert list(going.counted("abc", "reading x", "rows")) == ["a", "b", "c"]
    assert said[-1] == "reading x: 2 rows so far"
    assert list(going.counted("abc", "reading x", "rows")) == ["a", "b", "c"] and len(said) == 3


def test_a_wait_is_told_in_seconds_and_its_end_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(going, "EVERY", 0.02)
    said: list[str] = []
    with going.telling(said.append), pytest.raises(ValueError, match="gone"), going.while_waiting("loading x"):
        while not said:
            time.sleep(0.01)
        raise ValueError("gone")
    count = len(said)
    time.sleep(0.1)
    assert len(said) == count and said[0] == "loading x: 0 s so far"


def test_what_is_over_soon_says_nothing(tmp_path: Path) -> None:
    said: list[str] = []
    with going.telling(said.append), going.while_waiting("loading x"):
        list(going.counted("abc", "reading x", "rows"))
    assert not said


def test_a_check_tells_of_rows_and_a_run_of_its_model(
    at_once: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))  # rows that are known are not read
    write_inputs(tmp_path, train=6, test=3)
    recipe, said = write_recipe(tmp_path, "told"), list[str]()
    (tmp_path / "many").mkdir()
    for i in range(3):
        (tmp_path / "many" / f"{i}.jsonl").write_text(json.dumps({"text": f"a {i}"}) + "\n")
    with going.telling(said.append):
        assert len(read_all(Source(path=str(tmp_path / "many"))).records) == 3
        assert any("many" in line and line.endswith("rows so far") for line in said)
        said.clear()
        assert check_recipe(recipe).ok
    assert any(line.startswith("reading") and line.endswith("rows so far") for line in said)
    whole = loading._load

    def slowly(*given: object) -> object:
        time.sleep(0.2)
        return whole(*given)

    monkeypatch.setattr(loading, "_load", slowly)
    monkeypatch.setattr(going, "EVERY", 0.02)
    own: list[str] = []
    with going.telling(said.append):
        said.clear()
        assemble(Recipe.load(recipe), own.append)
    assert any(line.startswith("loading") and line.endswith("s so far") for line in own) and not said
