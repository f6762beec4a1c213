"""A file that was altered is not taken for what it was, whatever its size and times say."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import tiny
from tunewright.files import hashing
from tunewright.files import stamp as stamps
from tunewright.files.stamp import BLOCKS, SMALL, stamp
from tunewright.files.tensors import save_tensors


def alter(file: Path, at: int, *, anew: bool = False) -> None:
    """Change one byte and nothing else that `ls -l` shows; `anew`: by another file in its place."""
    before = file.stat()
    content = bytearray(file.read_bytes())
    at %= len(content)
    content[at] ^= 1
    if anew:
        other = file.with_name("other")
        other.write_bytes(content)
        other.replace(file)
    else:
        with file.open("r+b") as f:
            f.seek(at)
            f.write(content[at : at + 1])
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3 * SMALL), st.floats(0, 1, exclude_max=True), st.booleans())
def test_any_byte_counts(tmp_path_factory: pytest.TempPathFactory, size: int, where: float, anew: bool) -> None:
    file = tmp_path_factory.mktemp("stamp") / "f"
    file.write_bytes(os.urandom(min(size, 64)) * (size // min(size, 64)) + b"x" * (size % min(size, 64)))
    before = stamp(file)
    assert stamp(file)[:2] == before[:2]
    alter(file, int(where * size), anew=anew)
    assert stamp(file) != before


@pytest.mark.parametrize("part", range(BLOCKS))
def test_a_disk_that_keeps_no_times_of_inodes(part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the inode says nothing, whatever rewrites a large file is seen in its blocks."""
    file, kept = tmp_path / "f", SimpleNamespace(st_size=2 * SMALL, st_mtime_ns=5, st_ctime_ns=5, st_ino=7)
    file.write_bytes(bytes(2 * SMALL))
    monkeypatch.setattr(stamps, "SETTLED", 0)
    monkeypatch.setattr(Path, "stat", lambda self, **_: kept)
    before = stamp(file)
    with open(file, "r+b") as f:
        f.seek((2 * SMALL - 4096) * part // (BLOCKS - 1) + 100)
        f.write(b"x")
    assert stamp(file) != before


def test_a_settled_file_is_told_without_reading_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "f"
    file.write_bytes(bytes(2 * SMALL))
    monkeypatch.setattr(stamps, "SETTLED", 0)
    before, time = stamp(file), file.stat().st_mtime_ns
    assert stamp(file) == before and len(before) == 5
    os.utime(file, ns=(time + 5, time + 5))
    assert stamp(file) != before, "the time of change is one of its parts"


@pytest.mark.parametrize("anew", [False, True])
def test_weights_altered_with_size_and_time_kept(anew: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    save_tensors({"x": torch.zeros(SMALL)}, tmp_path / "model.safetensors")
    before = hashing.hash_weights(tmp_path)
    alter(tmp_path / "model.safetensors", 2 * SMALL + 12345, anew=anew)
    assert hashing.hash_weights(tmp_path) != before


def test_weights_are_read_once_and_all_of_them_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hashing, "stamp", lambda file: ["the same, whatever it holds"])
    tiny.llama().save_pretrained(tmp_path / "base")
    known, read = hashing.hash_weights(tmp_path / "base"), []
    real = hashing._digest
    monkeypatch.setattr(hashing, "_digest", lambda t: read.append(t.name) or real(t))
    alter(tmp_path / "base/model.safetensors", -1)
    assert hashing.hash_weights(tmp_path / "base") == known and not read
    afresh = hashing.hash_weights(tmp_path / "base", afresh=True)
    assert afresh != known and read
    assert hashing.hash_weights(tmp_path / "base") == afresh, "what was read is kept"


def test_a_picture_altered_with_size_and_time_kept(tmp_path: Path) -> None:
    from tunewright.data.dataset import _content

    (tmp_path / "a.png").write_bytes(bytes(5000))
    before = _content("a.png", str(tmp_path))
    alter(tmp_path / "a.png", 4000)
    assert _content("a.png", str(tmp_path)) != before
    shutil.copytree(tmp_path, tmp_path.with_name("copy"))
    assert _content("a.png", str(tmp_path.with_name("copy"))) == _content("a.png", str(tmp_path)), "a copy is the same"
    assert _content("none.png", str(tmp_path)) == "none.png"
