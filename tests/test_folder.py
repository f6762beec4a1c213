"""Run folders: names, locks, and what a resumed run forgets."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tunewright.errors import FolderError
from tunewright.runs.folder import RunFolder, discard_if_empty, locked, new_folder


def test_a_second_run_takes_the_next_name(tmp_path: Path) -> None:
    names = [new_folder("quickstart", None, tmp_path).path.name for _ in range(3)]
    assert names == ["quickstart", "quickstart-2", "quickstart-3"]


def test_a_folder_that_holds_something_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("mine")
    with pytest.raises(FolderError, match="not empty"):
        new_folder("a", tmp_path)
    assert (tmp_path / "x").read_text() == "mine"


def test_a_live_run_holds_its_folder_and_a_dead_one_does_not(tmp_path: Path) -> None:
    folder = new_folder("a", tmp_path / "a")
    take = "with locked(RunFolder(Path(sys.argv[1]))):\n print('held', flush=True); sys.stdin.read()"
    code = f"import sys; from pathlib import Path; from tunewright.runs.folder import *\n{take}"
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(folder.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None and other.stdout.readline() == "held\n"
    with pytest.raises(FolderError, match=f"process {other.pid}"), locked(folder):
        pass
    other.kill()
    other.wait()
    with locked(folder):
        pass


def test_records_of_steps_that_will_be_done_again_are_dropped(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for stage, step in (("a", 1), ("a", 2), ("b", 1), ("b", 2)):
        folder.append_metrics({"stage": stage, "step": step})
    with open(folder.file("metrics.jsonl"), "a") as f:
        f.write('{"stage": "b", "st')
    folder.drop_metrics_after("b", 1)
    assert [(r["stage"], r["step"]) for r in folder.metrics()] == [("a", 1), ("a", 2), ("b", 1)]


def test_progress_adds_up(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.progress() == {}
    folder.note_progress(base=True)
    folder.note_progress(stages=["a"])
    assert folder.progress() == {"base": True, "stages": ["a"]}


def test_a_folder_with_results_is_never_discarded(tmp_path: Path) -> None:
    empty, used = RunFolder(tmp_path / "a"), RunFolder(tmp_path / "b")
    for f in (empty, used):
        f.path.mkdir()
        f.write_recipe("x")
    used.append_metrics({"step": 1})
    discard_if_empty(empty)
    discard_if_empty(used)
    assert not empty.path.exists() and used.path.exists()
