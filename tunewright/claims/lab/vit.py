"""How `nano-vit` is judged: pictures as the task gives them, loss and accuracy."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


def pixels(pictures: np.ndarray) -> Tensor:
    """uint8 [n, 28, 28] as the task image-classification gives them without an image processor: float [n, 1, 28,
    28] in -1..1.
    """
    return torch.from_numpy(pictures.astype(np.float32))[:, None] / 127.5 - 1


@torch.no_grad()
def evaluate(model: Any, x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """(mean loss in nats, accuracy) on pictures."""
    logits = torch.cat([model(pixels(x[i : i + 200])).logits for i in range(0, len(x), 200)])
    labels = torch.from_numpy(y.astype(np.int64))
    return float(cross_entropy(logits, labels)), float((logits.argmax(-1) == labels).float().mean())
