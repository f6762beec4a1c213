"""Rows that are made in a run that is killed: nothing is made twice, and the resumed run is equal in every bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.runs.making import Continues, inputs, makers, recipe, report, trained
from tunewright.contract.writer import Journal
from tunewright.errors import CheckpointError
from tunewright.files import checkpoint
from tunewright.models.agreement import differing
from tunewright.runs.run import resume, run
from tunewright.training.writing import LocalWriter

__all__ = ["inputs", "makers"]


class Killed(BaseException):
    pass


SAVED: dict[str, Any] = {
    "train__save_steps": 1,
    "stages__0__budget": {"steps": 4},
    "data__synthesize": [{"continues": {"count": 2}}],
}


def dying(owner: Any, name: str, after: int, patch: pytest.MonkeyPatch) -> None:
    """Let the `after`-th call of a function be the last thing that the process does."""
    calls, kept = [0], getattr(owner, name)

    def function(*given: Any, **named: Any) -> Any:
        calls[0] += 1
        out = kept(*given, **named)
        if calls[0] >= after:
            raise Killed
        return out

    patch.setattr(owner, name, function)


@pytest.fixture
def whole(inputs: Path) -> Path:
    if not (inputs / "whole").exists():
        run(recipe(inputs, "whole", **SAVED), inputs / "whole", quiet=True)
    return inputs / "whole"


@pytest.mark.parametrize(("after", "left"), [(1, 2), (2, 1), (3, 0)])
def test_a_kill_inside_a_round_loses_no_text_and_the_resumed_run_is_equal(
    inputs: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, after: int, left: int
) -> None:
    folder = inputs / f"killed-{after}"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        dying(Journal, "add", after, patch)
        run(recipe(inputs, folder.name, **SAVED), folder, quiet=True)
    assert "made" not in json.loads((folder / "progress.json").read_text())
    with (folder / "made" / "main.replies.jsonl").open("a") as f:
        f.write('{"key": "half a li')  # what a kill within a write leaves
    batches: list[int] = []
    kept = LocalWriter._write
    monkeypatch.setattr(LocalWriter, "_write", lambda self, *given: batches.append(1) or kept(self, *given))  # type: ignore[func-returns-value]
    resume(folder, quiet=True)
    assert len(batches) == left, "what was written is written again, or what was not is missing"
    for name in ("main.jsonl", "main.rows.jsonl", "main.replies.jsonl"):
        assert (folder / "made" / name).read_bytes() == (whole / "made" / name).read_bytes()
    assert not differing(trained(whole), trained(folder))
    costs = [report(p)["cost"] for p in (whole, folder)]
    assert costs[0]["flops_by_phase"]["generation"] == costs[1]["flops_by_phase"]["generation"]
    resume(folder, verify=True, quiet=True)


def test_a_run_that_is_killed_afterwards_reads_what_it_made(
    inputs: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = inputs / "later"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        dying(checkpoint, "save", 2, patch)
        run(recipe(inputs, "later", **SAVED), folder, quiet=True)
    monkeypatch.setattr(Continues, "synthesize", lambda self, records, writers, round: pytest.fail("made again"))
    rows = folder / "made" / "main.rows.jsonl"
    text = rows.read_text()
    rows.write_text(text.replace("round 1", "round 9", 1))
    with pytest.raises(CheckpointError, match="was altered"):
        resume(folder, quiet=True)
    rows.unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        resume(folder, quiet=True)
    rows.write_text(text)
    resume(folder, quiet=True)
    assert not differing(trained(whole), trained(folder))


def test_a_broken_journal_is_named(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = inputs / "broken"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        dying(Journal, "add", 2, patch)
        run(recipe(inputs, "broken", **SAVED), folder, quiet=True)
    file = folder / "made" / "main.replies.jsonl"
    file.write_text(file.read_text()[10:])
    with pytest.raises(CheckpointError, match=r"what was generated so far cannot be read"):
        resume(folder, quiet=True)
    file.unlink()
    assert resume(folder, quiet=True) is not None
