"""Contrast for unbalanced classes that dwells on rows near the border of their class, as a model is prepared for an
open world in OASIS (Kim, Joe and Kwon 2025, arXiv:2508.16656; papers: oasis).

With pooled features f [B, D] of the whole optimizer batch, z = f / |f|, s_ij = z_i . z_j / temperature, n_c rows of
class c in the batch, and b_i the share of other classes among row i's `neighbours` nearest rows there:

    l_i = -1/|P(i)| sum_{p in P(i)} log [ exp s_ip / sum_c mean_{k in c, k != i} exp s_ik ],   P(i): others of i's class
    w_i = (1 + refine b_i) / n_{y_i}
    loss = sum_i w_i (CE_i + amount * l_i) / sum_i w_i;        l_i = 0 for a row that is alone of its class

so that every class pushes alike however many rows it has (the mean in the denominator: Zhu et al. 2022,
arXiv:2207.09052), rare classes weigh as common ones, and a row that lies among others is refined the most. Depends on
the whole batch: micro-steps see the same rows and give the same gradient. Rows' own weights do not count.

Defaults: temperature 0.1, amount 1, five neighbours, refine 1 (ours). Differs from the paper in: reconstructed from its
abstract, which names a contrast in pre-training for unbalanced classes and a refinement of borderline samples, and
neither's formula.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from tunewright.contract.batch import Batch, Loss, Outputs
from tunewright.contract.method import Method
from tunewright.pieces.heads import pooled_features


def borders(similar: Tensor, classes: Tensor, neighbours: int) -> Tensor:
    """[B] share of other classes among each row's most similar rows, itself left out; `similar` [B, B]."""
    own = torch.eye(len(classes), dtype=torch.bool, device=similar.device)
    nearest = similar.masked_fill(own, -torch.inf).topk(min(neighbours, len(classes) - 1), dim=1).indices
    return (classes[nearest] != classes[:, None]).float().mean(1)


def balanced_contrast(scores: Tensor, classes: Tensor) -> Tensor:
    """[B] l_i in nats, 0 where a row is alone of its class, of scores s [B, B]."""
    own = torch.eye(len(classes), dtype=torch.bool, device=scores.device)
    alike = (classes[:, None] == classes[None]) & ~own
    known, at = classes.unique(return_inverse=True)
    of_class = (at[None] == torch.arange(len(known), device=at.device)[:, None])[:, None] & ~own  # [C, B, B]
    count = of_class.sum(2)
    means = torch.logsumexp(scores.masked_fill(~of_class, -torch.inf), 2) - count.clamp(min=1).log()
    means = torch.where(count > 0, means, -torch.inf)
    logp = (scores - torch.logsumexp(means, 0)[:, None]).masked_fill(own, 0.0)
    return -(logp * alike).sum(1) / alike.sum(1).clamp(min=1)


class BorderlineContrast(Method):
    """Cross-entropy and contrast in which classes count alike and rows near a border count more."""

    amount: PositiveFloat = Field(1.0, description="weight of the contrast beside the cross-entropy", examples=[0.1])
    temperature: PositiveFloat = Field(0.1, description="divides the contrast's similarities", examples=[0.3])
    neighbours: PositiveInt = Field(5, description="nearest rows of the batch by which a border is told", examples=[1])
    refine: NonNegativeFloat = Field(
        1.0, description="how much more a row counts that lies among other classes alone; 0: no more", examples=[0.0]
    )

    couples: ClassVar[Literal["token", "row", "batch"]] = "batch"
    tasks: ClassVar[tuple[str, ...] | None] = ("image-classification", "text-classification")
    papers: ClassVar[tuple[str, ...]] = ("oasis",)

    def objective(self, outputs: Outputs, batch: Batch) -> Loss:
        cross = F.cross_entropy(outputs.logits.float(), batch.labels, reduction="none")
        if len(batch.labels) < 2:
            return Loss(cross.mean())
        z = F.normalize(pooled_features(outputs).float())
        a_row = balanced_contrast(z @ z.T / self.temperature, batch.labels)
        border = borders((z @ z.T).detach(), batch.labels, self.neighbours)
        alike = (batch.labels[:, None] == batch.labels[None]).sum(1)
        weight = (1 + self.refine * border) / alike
        return Loss((weight * (cross + self.amount * a_row)).sum() / weight.sum())
