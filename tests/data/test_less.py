"""LESS against PEFT's adapter, torch's AdamW and transformers' schedule, and its sketch against inner products."""

from __future__ import annotations

import copy
import random
from typing import Any

import numpy as np
import peft
import pytest
import torch
from transformers import get_linear_schedule_with_warmup

from tunewright.conformance.reading import Reads
from tunewright.contract.method import call
from tunewright.contract.records import Record
from tunewright.data.select import _gradients, less
from tunewright.data.select.less import LESS, Sketch

METHOD = LESS(keep=3, warm_up=0.5, epochs=3, batch=4, learning_rate=0.05, rank=4, projection=0)


def row_loss(model: Any, row: Any) -> torch.Tensor:
    labels = torch.tensor([[i if w > 0 else -100 for i, w in zip(row.input_ids, row.weights, strict=True)]])
    return model(input_ids=torch.tensor([list(row.input_ids)]), labels=labels).loss


def gradient(model: Any, row: Any) -> torch.Tensor:
    parameters = [p for p in model.parameters() if p.requires_grad]
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad(row_loss(model, row), parameters)])


def test_influences_are_those_of_peft_and_adamw(monkeypatch: pytest.MonkeyPatch) -> None:
    starts: dict[str, torch.Tensor] = {}
    steps: list[list[str]] = []
    made, stepped = _gradients.kaiming, LESS._step

    def noting(site: Any, rank: int, generator: Any) -> Any:
        A, B = made(site, rank, generator)
        starts[site.name] = A.clone()
        return A, B

    def watched(self: LESS, adam: Any, parameters: Any, some: Any, reader: Any) -> None:
        steps.append([r.id for r in some])
        stepped(self, adam, parameters, some, reader)

    monkeypatch.setattr(_gradients, "kaiming", noting)
    monkeypatch.setattr(LESS, "_step", watched)
    reads = Reads(METHOD)
    kinds = [Record({**r}, id=r.id, source=f"kind {i % 2}") for i, r in enumerate(reads.records[:4])]
    found = call(METHOD, "select", **{**reads.offered, "target": kinds}, rng=random.Random(0))
    assert [len(s) for s in steps] == [4, 2] * 3 and set(steps[0] + steps[1]) == set(steps[2] + steps[3])

    rows = {r.id: reads.readers["start"].rows_of(r)[0] for r in reads.records}
    aimed = {r.id: reads.readers["start"].rows_of(r)[0] for r in kinds}
    config = peft.LoraConfig(r=4, lora_alpha=16, target_modules=[n.rpartition(".")[2] for n in starts])
    model = peft.get_peft_model(copy.deepcopy(reads.adapted.model), config).eval()
    for name, p in model.named_parameters():
        if "lora_A" in name:
            p.data.copy_(starts[name.removeprefix("base_model.model.").removesuffix(".lora_A.default.weight")])
    parameters = [p for p in model.parameters() if p.requires_grad]
    adam = torch.optim.AdamW(parameters, lr=0.05, weight_decay=0.0)
    schedule = get_linear_schedule_with_warmup(adam, 1, 6)
    total, rates = np.zeros((2, 12)), []
    for epoch in range(3):
        here = []
        for some in steps[2 * epoch : 2 * epoch + 2]:
            here.append(schedule.get_last_lr()[0])
            adam.zero_grad()
            torch.stack([row_loss(model, rows[i]) for i in some]).mean().backward()
            adam.step()
            schedule.step()
        rates.append(np.mean(here))
        m, v = (torch.cat([adam.state[p][k].reshape(-1) for p in parameters]) for k in ("exp_avg", "exp_avg_sq"))
        aims = [torch.nn.functional.normalize(gradient(model, aimed[r.id]), dim=0) for r in kinds]
        for i, record in enumerate(reads.records):
            g = gradient(model, rows[record.id])
            step = (0.9 * m + 0.1 * g) / (0.999 * v + 0.001 * g**2 + 1e-8).sqrt()
            cosines = [float(t @ torch.nn.functional.normalize(step, dim=0)) for t in aims]
            total[:, i] += rates[-1] * np.array([np.mean(cosines[0::2]), np.mean(cosines[1::2])])
    expected = (total / sum(rates)).max(0)
    np.testing.assert_allclose(found.scores["influence"], expected, rtol=2e-3, atol=1e-5)
    assert list(found.indices) == np.argsort(-np.array(found.scores["influence"]))[:3].tolist()


def test_a_sketch_keeps_inner_products_on_average() -> None:
    x, y = torch.rand(2, 500, generator=torch.Generator().manual_seed(0)) + 0.1
    y[::2] = -y[::2]
    sketches = [Sketch(500, 64, torch.Generator().manual_seed(s)) for s in range(200)]
    assert Sketch(500, 0, torch.Generator())(x) @ x == pytest.approx(float(x.norm()), rel=1e-5)
    cosine = float(torch.nn.functional.cosine_similarity(x, y, dim=0))
    found = torch.stack([s(x) @ s(y) for s in sketches])
    assert float(found.mean()) == pytest.approx(cosine, abs=0.03) and 0.02 < float(found.std()) < 0.15


def test_rates_rise_and_fall_as_transformers_do() -> None:
    for steps, rise in ((4, 1), (100, 3), (34, 2)):
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
        schedule = get_linear_schedule_with_warmup(optimizer, rise, steps)
        for step in range(steps):
            assert less.rate_at(step, steps, 0.5) == pytest.approx(schedule.get_last_lr()[0])
            optimizer.step()
            schedule.step()
    assert less.rate_at(0, 1, 0.5) == 0.5  # one step is not all rise
