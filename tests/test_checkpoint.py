"""Checkpoints survive what a crash can do to them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch

from tunewright.errors import CheckpointError, FolderError
from tunewright.files import checkpoint


def write(run: Path, step: int, save_total_limit: int | None = None) -> Path:
    return checkpoint.save(
        run,
        step,
        {"note": step},
        {"trained": {"w": torch.full((3,), float(step))}, "empty": {}},
        save_total_limit=save_total_limit,
    )


def test_what_was_written_comes_back(tmp_path: Path) -> None:
    write(tmp_path, 7)
    found = checkpoint.latest(tmp_path)
    assert found is not None and found.step == 7 and found.state["note"] == 7
    assert torch.equal(found.tensors["trained"]["w"], torch.full((3,), 7.0))
    assert found.tensors["empty"] == {}


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (5, 10, 100):
        write(tmp_path, step, save_total_limit=2)
    assert [s for s, _ in checkpoint.listed(tmp_path)] == [10, 100]


@pytest.mark.parametrize("harm", ["flip", "truncate", "missing file", "missing manifest", "bad json"])
def test_a_damaged_one_is_named_and_the_one_before_it_used(tmp_path: Path, harm: str) -> None:
    write(tmp_path, 1)
    last = write(tmp_path, 2)
    target = last / "trained.safetensors"
    if harm == "flip":
        raw = bytearray(target.read_bytes())
        raw[-1] ^= 1
        target.write_bytes(bytes(raw))
    elif harm == "truncate":
        target.write_bytes(target.read_bytes()[:-4])
    elif harm == "missing file":
        target.unlink()
    elif harm == "missing manifest":
        (last / "manifest.json").unlink()
    else:
        (last / "manifest.json").write_text("{")
    said: list[str] = []
    found = checkpoint.latest(tmp_path, said.append)
    assert found is not None and found.step == 1
    assert len(said) == 1 and "checkpoint-2" in said[0] and "before it" in said[0]


def test_an_unfinished_one_is_not_seen(tmp_path: Path) -> None:
    write(tmp_path, 1)
    shutil.copytree(tmp_path / "checkpoint-1", tmp_path / ".checkpoint-2.123")
    found = checkpoint.latest(tmp_path)
    assert found is not None and found.step == 1


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, 1)
    (folder / "optimizer.pt").write_bytes(b"\x80\x04.")
    with pytest.raises(CheckpointError, match="pickle"):
        checkpoint.read(folder)


def test_a_failed_write_leaves_earlier_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, 1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "flush", full)
    with pytest.raises(FolderError, match="disk is full"):
        write(tmp_path, 2)
    assert [s for s, _ in checkpoint.listed(tmp_path)] == [1]
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-1"]


def test_text_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    checkpoint.write_json(path, {"a": 1})

    def denied(*_: object) -> None:
        raise PermissionError(13, "denied")

    monkeypatch.setattr(os, "replace", denied)
    with pytest.raises(FolderError, match="cannot be written"):
        checkpoint.write_json(path, {"a": 2})
    assert path.read_text() == '{\n "a": 1\n}' and len(list(tmp_path.iterdir())) == 1


def test_numbers_that_json_lacks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        checkpoint.write_json(tmp_path / "a.json", {"a": float("nan")})
