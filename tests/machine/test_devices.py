"""Devices by name: what is asked for and not there is refused, and waiting goes to the right one."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from tunewright.errors import MethodError
from tunewright.machine import devices
from tunewright.models import precision
from tunewright.recipe import Recipe
from tunewright.runs.assemble import device_of

TREE = {"model": "m", "task": "text-generation", "data": {"train": "rows.jsonl"}, "methods": ["lora"]}


def recipe(device: str) -> Recipe:
    return Recipe(**TREE, train={"device": device})


@pytest.fixture
def metal(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A Mac: torch sees its GPU and no other. What it was waited for is in the list."""
    waited: list[str] = []
    monkeypatch.setattr(torch.backends, "mps", SimpleNamespace(is_available=lambda: True))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.mps, "synchronize", lambda: waited.append("mps"))
    return waited


def test_mps_is_accepted_where_torch_sees_it(metal: list[str]) -> None:
    assert device_of(recipe("mps")) == "mps"
    assert device_of(recipe("auto")) == "cpu"  # Metal is asked for by name
    with pytest.raises(MethodError, match="device: cuda was asked for, and torch sees no GPU"):
        device_of(recipe("cuda"))


def test_mps_is_refused_where_torch_does_not_see_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends, "mps", SimpleNamespace(is_available=lambda: False))
    with pytest.raises(MethodError, match="device: mps was asked for, and torch sees no Apple GPU") as error:
        device_of(recipe("mps"))
    assert error.value.where == "train.device" and "auto" in str(error.value.remedy)
    assert device_of(recipe("cpu")) == "cpu"


def test_waiting_is_for_the_device_that_works(metal: list[str]) -> None:
    devices.wait("cpu")
    assert metal == []
    devices.wait(torch.device("mps"))
    assert metal == ["mps"]


def test_a_device_without_bfloat16_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    def seconds(device: torch.device, dtype: torch.dtype) -> float:
        if dtype == torch.bfloat16:
            raise TypeError("BFloat16 is not supported on MPS")
        return 0.1

    monkeypatch.setattr(precision, "_seconds", seconds)
    assert precision.measure_precision.__wrapped__("mps").precision == "float32"
