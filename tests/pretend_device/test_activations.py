"""Activations on the host while a step waits for its backward pass: the same numbers, and what goes and what stays."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from torch import nn

from tests.methods.driving import Run, changed
from tests.pretend_device import REAL
from tunewright.errors import MethodError
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.parameter_selection.full import FullFineTuning
from tunewright.models import activations
from tunewright.models.activations import offloading
from tunewright.recipe import Recipe
from tunewright.runs.offloaded import check_on_the_host


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """Shapes of what is copied to the host, as it happens."""
    seen: list[torch.Size] = []
    kept = activations._to_host
    monkeypatch.setattr(activations, "_to_host", lambda t: (seen.append(t.shape), kept(t))[1])
    return seen


def net(device: str) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return nn.Sequential(nn.Linear(48, 64), nn.GELU(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1)).to(device)


def grads(model: nn.Module, x: torch.Tensor, on: bool, smallest: int = 1024) -> list[torch.Tensor]:
    with offloading(model.parameters(), on, smallest):
        loss = model(x).square().mean()
    return list(torch.autograd.grad(loss, list(model.parameters())))


def test_gradients_are_the_same_and_parameters_stay(cuda: str, copied: list[torch.Size]) -> None:
    model, x = net(cuda), torch.linspace(-1, 1, 40 * 48).view(40, 48).to(cuda)
    plain = grads(model, x, False)
    assert copied == []
    there = grads(model, x, True)
    assert all(torch.equal(a, b) and b.is_cuda for a, b in zip(plain, there, strict=True))
    # x, what the GELU reads, what the second layer reads, and the Tanh's own output, which the last layer reads as well
    assert sorted(copied) == sorted([x.shape, *[torch.Size([40, 64])] * 3])
    copied.clear()
    grads(model, x, True, smallest=40 * 48 + 1)
    assert len(copied) == 3  # x is too small now


@pytest.mark.slow
def test_memory_that_was_left_and_taken_again_is_no_copy_of_before(cuda: str) -> None:
    """What is saved and forgotten lies at addresses that later tensors get: none may come back as another."""
    w = torch.ones(2048, device=cuda, requires_grad=True)
    with offloading([], True, 16):
        losses = []
        for i in range(20):
            x = torch.full((2048,), float(i), device=cuda)
            losses.append((w * x).sum())
            del x
            gc.collect()
    for i, loss in enumerate(losses):
        (g,) = torch.autograd.grad(loss, [w])
        assert bool((g == i).all())


@pytest.mark.parametrize("method", [LoRA(rank=2, dropout=0.2), FullFineTuning()], ids=["lora", "full"])
def test_a_run_trains_to_the_same_bits(cuda: str, copied: list[torch.Size], method: Any) -> None:
    from tests import tiny
    from tunewright.models.adapted import Adapted

    def trained(on: bool) -> tuple[dict[str, torch.Tensor], list[Any]]:
        run = Run({"x": method}, steps=3, model=Adapted(tiny.llama().to(cuda)), activation_offloading=on)
        run.stage.device = cuda
        return changed(run.train()), [r["loss"] for r in run.records]

    plain = trained(False)
    assert not copied
    there = trained(True)
    assert len(copied) > 10
    assert REAL or (plain[1] == there[1] and all(torch.equal(t, there[0][n]) for n, t in plain[0].items()))


def test_on_the_cpu_nothing_is_copied(copied: list[torch.Size]) -> None:
    grads(net("cpu"), torch.ones(40, 48), True, 1)
    assert copied == []


@pytest.mark.parametrize("other", [{"offload_param": "disk"}, {"fsdp": "full_shard"}], ids=lambda o: next(iter(o)))
def test_beside_weights_that_come_and_go_it_is_refused(other: dict[str, str]) -> None:
    asked = {"model": "nano", "task": "text-generation", "data": {"train": "rows.jsonl"}, "methods": ["lora"]}
    check_on_the_host(Recipe.model_validate({**asked, "train": other}))
    with pytest.raises(MethodError, match=f"train.{next(iter(other))}") as refused:
        check_on_the_host(Recipe.model_validate({**asked, "train": {**other, "activation_offloading": True}}))
    assert refused.value.where == "train.activation_offloading" and "keep one" in str(refused.value)
