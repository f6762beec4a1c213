"""BANG: balanced averaging (Lin et al. 2024, arXiv:2309.17230; papers: bang). Train less sure of itself, then
interpolate.

A fine-tuned classifier is over-confident on shifted data, so that in the weights' average its errors outvote what the
base knew. This objective trains it calibrated; `after: [wise-ft]` then averages: theta = (1 - lambda) theta0 + lambda
theta1.

    smoothing e:  target q = (1 - e) onehot(y) + e / C                                   loss -sum_c q_c log p_c   [nats
    a row] mixup a:      x = m x_i + (1 - m) x_j, m ~ Beta(a, a) a row, loss m l(y_i) + (1 - m) l(y_j)

Pictures are mixed as pixels, with the next row of their micro-batch; texts cannot be, and their pooled features are
mixed before the head, with another row of the optimizer batch. Scaling a finished model's logits is no substitute: it
does not commute with averaging weights. e = 0 and a = 0 is plain cross-entropy. Draws come from the row (pictures) or
step.

Not seen: the paper's e and a (its code was not released). Differs from the paper in: features are mixed for texts.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor

from tunewright.contract.batch import Batch, Loss, Outputs
from tunewright.contract.method import Method, Setup, State
from tunewright.pieces.heads import pooled_features, pooled_head


def smoothed(logits: Tensor, labels: Tensor, amount: float) -> Tensor:
    """(1 - e) CE(y) + e mean over classes of -log p, [R] in nats; logits [R, C], labels [R]."""
    log_p = logits.float().log_softmax(-1)
    own = -log_p.gather(-1, labels[:, None])[:, 0]
    return own if amount == 0 else (1 - amount) * own - amount * log_p.mean(-1)


def mixed_loss(logits: Tensor, labels: Tensor, others: Tensor, share: Tensor, amount: float) -> Tensor:
    """m l(y_i) + (1 - m) l(y_j) [R] of mixed rows' logits [R, C]; share m [R], others y_j [R]."""
    return share * smoothed(logits, labels, amount) + (1 - share) * smoothed(logits, others, amount)


class Bang(Method):
    """Label smoothing and mixup, for a model that will be averaged with its base."""

    smoothing: float = Field(
        0.1, ge=0, lt=1, description="e, share of each target spread evenly over all classes", examples=[0.0]
    )
    mixup: NonNegativeFloat = Field(
        0.0,
        description="a, both parameters of the Beta distribution of the share; 0: rows are not mixed",
        examples=[0.5],
    )

    couples: ClassVar[Literal["token", "row", "batch"]] = "batch"
    tasks: ClassVar[tuple[str, ...] | None] = ("image-classification", "text-classification")
    papers: ClassVar[tuple[str, ...]] = ("bang",)

    def setup(self, run: Setup) -> State:
        return State(seed=run.rng.getrandbits(31))

    def batch(self, batch: Batch, row_rng: Callable[[int], random.Random]) -> Batch | None:
        """Mix pictures: pixel_values [R, C, H, W]. The other row's class and the share go with the batch."""
        if not self.mixup or "pixel_values" not in batch.inputs:
            return None
        rows = len(batch.labels)
        share = torch.tensor([row_rng(i).betavariate(self.mixup, self.mixup) for i in range(rows)])
        pixels = batch.inputs["pixel_values"]
        m = share.to(pixels)[:, None, None, None]
        inputs = {**batch.inputs, "pixel_values": m * pixels + (1 - m) * pixels.roll(-1, 0)}
        return batch.replace(
            inputs=inputs, fields={**batch.fields, "mixup_share": share, "mixup_targets": batch.labels.roll(-1)}
        )

    def objective(self, outputs: Outputs, batch: Batch, step: int, state: Any) -> Loss:
        if not self.mixup:
            return Loss(smoothed(outputs.logits, batch.labels, self.smoothing))
        if "mixup_share" in batch.fields:
            others, share, logits = batch.fields["mixup_targets"], batch.fields["mixup_share"], outputs.logits
        else:
            rng, rows, f = random.Random(f"{state.data['seed']}/{step}"), len(batch.labels), pooled_features(outputs)
            order = torch.tensor(rng.sample(range(rows), rows), device=f.device)
            share = torch.tensor([rng.betavariate(self.mixup, self.mixup) for _ in range(rows)], device=f.device)
            others, m = batch.labels[order], share.to(f)[:, None]
            logits = pooled_head(outputs)(m * f + (1 - m) * f[order])
        return Loss(mixed_loss(logits, batch.labels, others, share.to(logits.device), self.smoothing))
