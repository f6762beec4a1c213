"""What is written may be read by whom the umask says, whatever library wrote it."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from tests import tiny
from tunewright.contract.batch import Row
from tunewright.data import store
from tunewright.files import cache, checkpoint
from tunewright.loading.save import save_pretrained
from tunewright.machine import host
from tunewright.measure.cache import BaseCache
from tunewright.methods.needs import _held
from tunewright.models import delta_format, deltas, peft_format
from tunewright.models.adapted import Adapted

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps no such modes")


@contextmanager
def umask(value: int) -> Iterator[None]:
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


def adapter(folder: Path) -> None:
    adapted = Adapted(tiny.llama(), tiny.tokenizer(), base_hash="ab")
    site = next(s for s in adapted.structure.sites if s.kind == "linear")
    delta = deltas.LowRank(torch.ones(1, site.in_features), torch.ones(site.out_features, 1), 1.0)
    deltas.attach(site, "lora", delta)
    peft_format.save_adapter(adapted, folder, "base")
    delta_format.save_delta(adapted, folder, "base")


def rows(folder: Path) -> None:
    with store.Writer(folder) as writer:
        writer.extend([Row("a", "s", [1], [1.0], None, {})])
        writer.finish({})


WRITERS: dict[str, Callable[[Path], object]] = {
    "an adapter": adapter,
    "a checkpoint": lambda f: checkpoint.write_folder(f / "checkpoint-1", {"a": 1}, {"t": {"x": torch.ones(2)}}),
    "a text": lambda f: checkpoint.write_text(f / "a.txt", "a"),
    "JSON in the cache": lambda f: cache.write_json(f / "hashes" / "a.json", {"a": 1}),
    "encoded rows": lambda f: rows(f / "rows" / "k"),
    "a measured base": lambda f: BaseCache(f / "measure").put("k", {"a": 1}, {"x": torch.ones(2)}),
    "a statistic": lambda f: _held.save(f / "needs" / "a.safetensors", {"x": torch.ones(2)}),
    "an export": lambda f: save_pretrained(tiny.llama(), tiny.tokenizer(), f / "model", {}),
    "a lock": lambda f: host.Lock(f / ".lock").release(),
}


@pytest.mark.parametrize("masked", [0o022, 0o002, 0o077])
@pytest.mark.parametrize("what", WRITERS)
def test_modes_are_the_umasks(what: str, masked: int, tmp_path: Path) -> None:
    with umask(masked):
        assert host.umask() == masked
        (tmp_path / "in").mkdir()
        WRITERS[what](tmp_path / "in")
    found = {p.relative_to(tmp_path): stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "in").rglob("*")}
    assert found
    for path, mode in found.items():
        assert mode == (0o777 if (tmp_path / path).is_dir() else 0o666) & ~masked, f"{path}: {mode:o}"


def test_the_umask_is_known_where_proc_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "PROC", tmp_path)
    with umask(0o027):
        assert host.umask() == 0o027
        assert os.umask(0o027) == 0o027, "asking changed it"
