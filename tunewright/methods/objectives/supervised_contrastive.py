"""Supervised contrast beside the cross-entropy: rows of a class draw together (Khosla et al. 2020, arXiv:2004.11362),
which Zhou et al. (2023) add to prefix tuning on augmented rows (papers: data-augmentation-for-peft).

With pooled features f [B, D] of the whole optimizer batch, z = f / |f|, and P(i) the other rows of row i's class,

    l_ij = log softmax over j != i of z_i . z_j / temperature
    loss = mean_i CE_i + amount * mean_i [ -1/|P(i)| sum_{p in P(i)} l_ip ]

the second mean over rows that have such a p; 0 where none has. The features are the model's own, without a projection,
so that nothing is learnt beside the model. Depends on the whole batch: micro-steps see the same rows and give the same
gradient. Rows' own weights do not count. A step must hold several rows of a class: augmented copies see to that.

Defaults: temperature 0.3 (Gunel et al. 2021, arXiv:2011.01403, who add the term to fine-tuning), amount 1 (ours).
Differs from the paper in: written after its abstract, which names a simple contrastive loss and no constants.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor
from torch.nn import functional as F

from tunewright.contract.batch import Batch, Loss, Outputs
from tunewright.contract.method import Method
from tunewright.pieces.heads import pooled_features


def supervised_contrast(features: Tensor, classes: Tensor, temperature: float) -> Tensor:
    """The contrast of features [B, D] with classes [B]: a scalar, in nats."""
    z = F.normalize(features.float())
    own = torch.eye(len(z), dtype=torch.bool, device=z.device)
    alike = (classes[:, None] == classes[None]) & ~own
    logp = torch.log_softmax((z @ z.T / temperature).masked_fill(own, -torch.inf), dim=1).masked_fill(own, 0.0)
    count = alike.sum(1)
    a_row = -(logp * alike).sum(1) / count.clamp(min=1)
    return a_row.sum() / (count > 0).sum().clamp(min=1)


class SupervisedContrastive(Method):
    """Cross-entropy plus supervised contrast of pooled features."""

    amount: PositiveFloat = Field(1.0, description="weight of the contrast beside the cross-entropy", examples=[0.1])
    temperature: PositiveFloat = Field(0.3, description="divides the contrast's similarities", examples=[0.07])

    couples: ClassVar[Literal["token", "row", "batch"]] = "batch"
    tasks: ClassVar[tuple[str, ...] | None] = ("image-classification", "text-classification")
    papers: ClassVar[tuple[str, ...]] = ("data-augmentation-for-peft",)

    def objective(self, outputs: Outputs, batch: Batch) -> Loss:
        contrast = supervised_contrast(pooled_features(outputs), batch.labels, self.temperature)
        return Loss(F.cross_entropy(outputs.logits.float(), batch.labels) + self.amount * contrast)
