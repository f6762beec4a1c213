"""Pictures in a model that is held in bfloat16: some cast what they read, and others have a convolution first."""

from __future__ import annotations

import pytest
import torch

from tests.architectures import IMAGES, SIDE, make
from tunewright.contract.batch import Row
from tunewright.tasks import get_task


@pytest.mark.parametrize("name", IMAGES)
def test_every_architecture_reads_pictures_in_bfloat16(name: str) -> None:
    task = get_task("image-classification")
    whole_model, half_model = (make(name, task.name).eval() for _ in range(2))  # levit keeps what it computed
    drawn = torch.Generator().manual_seed(0)
    pixels = [torch.randint(0, 256, (3, SIDE, SIDE), dtype=torch.uint8, generator=drawn).numpy() for _ in range(2)]
    numbers = {"scale": 1 / 255, "mean": [0.5] * 3, "std": [0.5] * 3}
    batch = task.collate([Row(f"{i}", "s", (), [1.0], i, {**numbers, "pixels": p}) for i, p in enumerate(pixels)])
    with torch.no_grad():
        whole = task.forward(whole_model, batch).logits
        half = task.forward(half_model.to(torch.bfloat16), batch).logits
    assert half.dtype == torch.bfloat16 and bool(torch.isfinite(half).all())
    gap = float((half.float() - whole).abs().max() / whole.abs().max().clamp(min=1e-3))
    assert gap < 0.25, f"bfloat16 says something else: {gap:.2f}"
