"""Loss and gradients of the packed loop's parts equal those of PEFT's padded forward, tensor by tensor."""

from __future__ import annotations

import pytest
import torch

from tests import tiny
from tunewright.contract.batch import Row
from tunewright.models.attention import prepare_attention
from tunewright.models.deltas import LowRank, attach
from tunewright.models.sites import discover
from tunewright.tasks import get_task

peft = pytest.importorskip("peft")


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2"])
def test_loss_and_lora_gradients_equal_pefts(name):
    g = torch.Generator().manual_seed(0)
    rows = [(torch.randint(8, tiny.VOCABULARY, (n,), generator=g).tolist(), n // 2) for n in (9, 70, 14, 31)]
    theirs, ours = tiny.MAKERS[name](), tiny.MAKERS[name]()
    structure = discover(ours)
    for p in ours.parameters():
        p.requires_grad_(False)
    theirs = peft.get_peft_model(
        theirs, peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", fan_in_fan_out=name == "gpt2")
    )
    sites = {s.name: s for s in structure.linear_sites()}
    pairs = {
        n.split(".lora_A")[0].removeprefix("base_model.model."): m
        for n, m in theirs.named_modules()
        if hasattr(m, "lora_A") and hasattr(m, "base_layer")
    }
    assert set(pairs) == set(sites)
    for n, layer in pairs.items():
        A, B = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        with torch.no_grad():
            B.copy_(torch.randn(B.shape, generator=g) * 0.1)
        attach(sites[n], "lora", LowRank(A.detach().clone(), B.detach().clone(), 2.0))

    longest = max(len(ids) for ids, _ in rows)
    pad = [longest - len(ids) for ids, _ in rows]
    loss = theirs(
        input_ids=torch.tensor([ids + [0] * p for (ids, _), p in zip(rows, pad, strict=True)]),
        attention_mask=torch.tensor([[1] * len(ids) + [0] * p for (ids, _), p in zip(rows, pad, strict=True)]),
        labels=torch.tensor([[-100] * k + ids[k:] + [-100] * p for (ids, k), p in zip(rows, pad, strict=True)]),
    ).loss
    loss.backward()

    task = get_task("text-generation")
    assert prepare_attention(ours)
    batch = task.collate(
        [Row(str(i), "x", ids, [0.0] * k + [1.0] * (len(ids) - k)) for i, (ids, k) in enumerate(rows)], True
    )
    value = task.loss(task.forward(ours, batch), batch).value.mean()
    value.backward()
    assert abs(float(value.detach()) - float(loss.detach())) <= 1e-6 * float(loss.detach())
    for n, layer in pairs.items():
        delta = sites[n].module.delta["lora"]
        for mine, other in (
            (delta.lora_A, layer.lora_A["default"].weight),
            (delta.lora_B, layer.lora_B["default"].weight),
        ):
            assert (mine.grad - other.grad).norm() <= 1e-5 * other.grad.norm(), n
