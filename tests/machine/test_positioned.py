"""Reading and writing at places of a file, with the system's own calls and without."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tunewright.machine import positioned


@pytest.fixture(params=["its own calls", "none"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "none":
        for name in ("preadv", "pwrite", "posix_fallocate", "posix_fadvise", "fdatasync"):
            monkeypatch.delattr(os, name)
        monkeypatch.setattr(positioned, "MOST", 1000)
    return str(request.param)


def test_threads_write_and_read_their_own_places(system: str, tmp_path: Path) -> None:
    file = positioned.open_file(tmp_path / "f", write=True)
    positioned.reserve(file, 64 * 4000)
    assert os.fstat(file).st_size == 64 * 4000
    wanted = np.random.default_rng(0).integers(0, 255, (64, 4000), np.uint8)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: positioned.write_at(file, wanted[i].data, i * 4000), range(64)))
        positioned.flush(file)
        came = np.empty_like(wanted)
        positioned.will_need(file, 0, 64)
        sizes = list(pool.map(lambda i: positioned.read_into(file, came[i].data, i * 4000), range(64)))
    assert sizes == [4000] * 64 and (came == wanted).all()
    os.close(file)


def test_what_comes_where_the_file_ends(system: str, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"a\r\nb\x1ac")  # bytes that Windows would change in a file of text
    file = positioned.open_file(tmp_path / "f")
    out = bytearray(10)
    assert positioned.read_into(file, out, 2) == 4 and bytes(out[:4]) == b"\nb\x1ac"
    assert positioned.read_into(file, out, 6) == 0
    os.close(file)
