"""The image classifier `nano-vit`: a small ViT (1M parameters, 7x7 patches of 28x28 grey pictures) that knows
upright MNIST digits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, pad

from tunewright.claims.lab.pretrain import Budget, Curve, train

PICTURES = 50_000  # of the training pictures; the last 10,000 are left to the tasks
SEEN = 200_000


def new(seed: int = 0) -> Any:
    """A `ViTForImageClassification` with random weights drawn by `seed`."""
    from transformers import ViTConfig, ViTForImageClassification

    names = {i: str(i) for i in range(10)}
    config = ViTConfig(
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=6,
        num_attention_heads=4,
        image_size=28,
        patch_size=7,
        num_channels=1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        id2label=names,
        label2id={v: k for k, v in names.items()},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ViTForImageClassification(config)


def pixels(pictures: np.ndarray) -> Tensor:
    """uint8 [n, 28, 28] as the task image-classification gives them without an image processor: float [n, 1, 28,
    28] in -1..1.
    """
    return torch.from_numpy(pictures.astype(np.float32))[:, None] / 127.5 - 1


def shifted(batch: Tensor, generator: torch.Generator, by: int = 2) -> Tensor:
    """Each picture moved by up to `by` pixels along each axis, black coming in."""
    padded = pad(batch, (by, by, by, by), value=-1.0)
    at = torch.randint(0, 2 * by + 1, (len(batch), 2), generator=generator).tolist()
    return torch.stack([p[:, y : y + 28, x : x + 28] for p, (y, x) in zip(padded, at, strict=True)])


def pretrain(data: Path, work: Path, seen: int = SEEN) -> tuple[Any, Curve]:
    """Train on `seen` pictures; the curve counts pictures. `data` holds mnist/train.npz and test.npz."""
    model, test_set = new(), np.load(data / "mnist" / "test.npz")
    stored = np.load(data / "mnist" / "train.npz")
    x, y = pixels(stored["x"][:PICTURES]), torch.from_numpy(stored["y"][:PICTURES].astype(np.int64))

    def loss(indices: list[int], step: int) -> Tensor:
        return cross_entropy(model(shifted(x[indices], torch.Generator().manual_seed(step))).logits, y[indices])

    def held_out() -> float:
        return evaluate(model, test_set["x"][:2000], test_set["y"][:2000])[0]

    return model, train(
        model,
        Budget(seen, batch=64, matrices=2e-3, rest=1e-3),
        PICTURES,
        loss,
        held_out,
        work,
        1,
        model.save_pretrained,
    )


@torch.no_grad()
def evaluate(model: Any, x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """(mean loss in nats, accuracy) on pictures."""
    logits = torch.cat([model(pixels(x[i : i + 200])).logits for i in range(0, len(x), 200)])
    labels = torch.from_numpy(y.astype(np.int64))
    return float(cross_entropy(logits, labels)), float((logits.argmax(-1) == labels).float().mean())
