"""Pictures that are drawn by taking noise out of them: draws, the loss, drawn pictures.

Each time a row is trained on, a step t of the schedule and a noise e are drawn, keyed by seed, epoch and row, and the
loss is the mean squared error of what the scheduler says is predicted (`models.denoiser`; Ho et al. 2020,
arXiv:2006.11239, equation 14, every step weighed alike). Where a row is measured, it is noised COPIES times, at steps
that are spread over the schedule (one drawn from each part of it), keyed by the row alone: base and tuned model, and
every strength between them, are asked the same.

Shapes: R rows, K noised copies of each, [C, h, w] what is denoised.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tunewright.contract.batch import Batch, Row
from tunewright.contract.method import row_rng
from tunewright.tasks.base import in_type

COPIES = 4
"""Steps at which a measured row is noised."""
UNIT = "squared error per element"
FIELDS = ("shape", "steps")
"""What a row's fields say of the model."""


def options_for(config: Any) -> dict[str, Any]:
    """What `EncodeOptions.image` says of a pipeline beside its pictures."""
    return {"shape": list(config.shape), "steps": config.steps}


def noise_of(rows: Sequence[Row], task: str, epochs: Sequence[int] | None, seed: int) -> dict[str, Tensor]:
    """`timesteps` [R, K], `noise` [R, K, C, h, w] and `spread` [R, C, h, w] (of a latent): K is 1 in training (`epochs`
    are given), else COPIES.
    """
    if epochs is None:
        draws = [_draw(r, task, 0, 0, COPIES) for r in rows]
    else:
        draws = [_draw(r, task, seed, e, 1) for r, e in zip(rows, epochs, strict=True)]
    steps, noise, spread = (torch.from_numpy(np.stack(part)) for part in zip(*draws, strict=True))
    return {"timesteps": steps, "noise": noise, "spread": spread}


def _draw(row: Row, task: str, seed: int, epoch: int, copies: int) -> tuple[Any, Any, Any]:
    """Steps [K], noise [K, C, h, w] and the draw of a latent [C, h, w]: one step from each of K equal parts."""
    rng = np.random.default_rng(row_rng(seed, task, epoch, row.id).getrandbits(128))
    shape = tuple(row.fields["shape"])
    parts = (np.arange(copies) + rng.random(copies)) / copies
    steps = np.minimum((parts * row.fields["steps"]).astype(np.int64), row.fields["steps"] - 1)
    noise = rng.standard_normal((copies, *shape), dtype=np.float32)
    return steps, noise, rng.standard_normal(shape, dtype=np.float32)


def run(model: Any, batch: Batch, hidden: bool) -> tuple[Any, None]:
    """What the model says of a batch (`models.denoiser.Denoised`); nothing is noted of its rows."""
    return model(**in_type(model, batch.inputs), output_hidden_states=hidden), None


def start(row: Row, rng: np.random.Generator) -> Any:
    """The noise [C, h, w] that a row's picture is drawn from."""
    return rng.standard_normal(tuple(row.fields["shape"]), dtype=np.float32)


def draw(model: Any, noise: Tensor, ids: Tensor | None, how: Mapping[str, Any], row: Row) -> Tensor:
    """uint8 pictures [R, c, H, W] from noise [R, C, h, w], of texts [R, L]."""
    steps = min(int(how["num_inference_steps"]), int(row.fields["steps"]))
    pictures: Tensor = model.draw(noise, ids, steps, float(how["guidance_scale"]))
    return pictures
