"""Files of tensors: equal bytes for equal contents, and the disk's refusal as an OSError."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tests import tiny
from tests.running import limited
from tunewright.files.tensors import save_tensors
from tunewright.models import deltas, peft_format
from tunewright.models.adapted import Adapted

METADATA = {"format": "pt", "base_hash": "ab" * 32, "é": 'a "quoted" é\n\x01', "": "empty", "z": ""}


def test_equal_contents_are_equal_bytes(tmp_path: Path) -> None:
    tensors = {"b\x01é": torch.arange(6.0).reshape(2, 3), "a": torch.ones(3, dtype=torch.bfloat16)}
    written = set()
    for i in range(12):  # the library's own order differs within a few
        order = list(METADATA.items())[i % 5 :] + list(METADATA.items())[: i % 5]
        save_tensors(dict(list(tensors.items())[:: 1 - 2 * (i % 2)]), tmp_path / "x.safetensors", dict(order))
        written.add((tmp_path / "x.safetensors").read_bytes())
    assert len(written) == 1
    with safe_open(tmp_path / "x.safetensors", "pt") as f:
        assert f.metadata() == METADATA
    read = load_file(tmp_path / "x.safetensors")
    assert {n: t.tolist() for n, t in read.items()} == {n: t.tolist() for n, t in tensors.items()}


def test_two_saves_of_an_adapter_are_equal_files(tmp_path: Path) -> None:
    adapted = Adapted(tiny.llama(), tiny.tokenizer(), base_hash="ab" * 32)
    for i, site in enumerate(s for s in adapted.structure.sites if s.kind == "linear" and s.role == "attention"):
        A, B = torch.full((2, site.in_features), 0.5 + i), torch.full((site.out_features, 2), 0.25)
        deltas.attach(site, "lora", deltas.LowRank(A, B, 2.0))
    for i in range(8):
        peft_format.save_adapter(adapted, tmp_path / str(i), "some/base")
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert len({(tmp_path / str(i) / name).read_bytes() for i in range(8)}) == 1, name


def test_the_disks_refusal_is_an_os_error(tmp_path: Path) -> None:
    tensors = {"a": torch.zeros(10_000)}
    with pytest.raises(OSError) as refused, limited(6_000):
        save_tensors(tensors, tmp_path / "x.safetensors")
    assert refused.value.errno == errno.EFBIG
    with pytest.raises(FileNotFoundError):
        save_tensors(tensors, tmp_path / "none" / "x.safetensors")
