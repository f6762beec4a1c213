"""The precision follows what was measured, once for a machine."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tunewright.models import precision
from tunewright.models.precision import WORTH, Measured, choose_precision, measure_precision


def test_bfloat16_must_pay():
    assert Measured("cpu", 100.0, 100.0 * WORTH).precision == "bfloat16"
    assert Measured("cpu", 100.0, 110.0).precision == "float32"
    assert Measured("cpu", 180.0, 6.0).precision == "float32"
    assert "180 GFLOP/s in float32, 6 in bfloat16" in str(Measured("cpu", 180.0, 6.0))


def test_it_is_measured_once_and_chosen_from_that():
    first = measure_precision("cpu")
    assert first.float32 > 0 and first.bfloat16 > 0
    assert measure_precision("cpu") is first and choose_precision("cpu") == first.precision


def test_other_work_beside_it_does_not_decide_and_what_was_found_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of products in turn the best counts: what holds up all but one in bfloat16 changes nothing."""
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path))
    asked: list[torch.dtype] = []

    def seconds(device: torch.device, dtype: torch.dtype) -> float:
        asked.append(dtype)
        held_up = 50.0 if len(asked) % 9 and dtype == torch.bfloat16 else 1.0
        return held_up * (0.01 if dtype == torch.float32 else 0.005)

    monkeypatch.setattr(precision, "_seconds", seconds)
    monkeypatch.setattr(precision, "LIMIT", 60.0)
    again = measure_precision.__wrapped__
    found = again("cpu")
    assert found.bfloat16 == pytest.approx(2 * found.float32) and found.precision == "bfloat16"
    count = len(asked)
    assert again("cpu") == found and len(asked) == count, "a second run takes what was kept"
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    again("cpu")
    assert len(asked) > count, "another processor, or less of it, is measured by itself"
    (tmp_path / "precision.json").write_text('{"cpu": "fast"')
    count = len(asked)
    again("cpu")
    assert len(asked) > count, "a file that does not read is made again"
