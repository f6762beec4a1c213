"""What the system refuses, in one message; a home that is not there."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tunewright.errors import FolderError
from tunewright.files import cache
from tunewright.files.checkpoint import system_error, write_texts
from tunewright.files.home import expanded
from tunewright.files.regular import is_special, regular


@pytest.mark.parametrize("name", ["/a/b", None, "x" * 5000])
def test_every_refusal_is_one_message(name: str | None) -> None:
    for number in errno.errorcode:
        e = OSError(number, os.strerror(number), name) if name else OSError(number, os.strerror(number))
        told = system_error(e)
        assert told.remedy and "None" not in str(told) and (told.where is not None) == (name is not None)
        assert ("the disk is full" in str(told)) == (number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


def test_a_user_without_a_home_has_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", none)
    for name in ("TUNEWRIGHT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert cache.cache_folder().is_absolute() and str(os.getuid()) in cache.cache_folder().name
    monkeypatch.setenv("TUNEWRIGHT_CACHE", "~nosuchuser/x")
    with pytest.raises(FolderError, match="~nosuchuser"):
        cache.cache_folder()


def test_homes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert expanded("~/x") == Path("/home/me/x") and expanded("a/~") == Path("a/~")
    with pytest.raises(FolderError) as refused:
        expanded("~nosuchuser/x")
    assert refused.value.where == "~nosuchuser/x"


def test_what_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    (tmp_path / "link").symlink_to("f")
    os.mkfifo(tmp_path / "pipe")
    for name in ("f", "link"):
        assert regular(tmp_path / name) == tmp_path / name and not is_special(tmp_path / name)
    for name, says in (("pipe", "a pipe"), (".", "a folder"), ("/dev/null", "a device")):
        with pytest.raises(OSError, match=says):
            regular(tmp_path / name)
    assert is_special(tmp_path / "pipe") and not is_special(tmp_path) and not is_special(tmp_path / "none")
    with pytest.raises(FileNotFoundError):
        regular(tmp_path / "none")


def test_texts_are_all_replaced_or_none(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    (tmp_path / "b").mkdir()
    with pytest.raises(FolderError, match="folder of this name"):
        write_texts({tmp_path / "a": "new", tmp_path / "b": "new"})
    assert (tmp_path / "a").read_text() == "old" and sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]
    with pytest.raises(FolderError):
        write_texts({tmp_path / "c/d/x": "new", tmp_path / "a/y": "new"})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"], "folders that were made are gone"
    write_texts({tmp_path / "a": "new", tmp_path / "c/d/x": "é"})
    assert (tmp_path / "a").read_text() == "new" and (tmp_path / "c/d/x").read_text(encoding="utf-8") == "é"
