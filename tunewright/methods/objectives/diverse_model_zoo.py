"""Diverse model zoo: weaker models tell what not to lean on (Chen et al. 2023, arXiv:2306.02595; papers:
diverse-model-zoo).

Two frozen classifiers of the same classes, tuned on the training domains (`models:` of the recipe), help a main model
to do well on domains that nobody has seen:

    correlated: one that leans on a link between features and labels which differs between domains. Rows that it gets
                right by that link count less:  w_i = min(most, 1 / (C p_c(y_i | x_i))), divided by the batch's mean
    diverse:    one whose features differ between domains. The main model's features f are kept independent of its
                features g:  + independence * HSIC(f, g) / sqrt(HSIC(f, f) HSIC(g, g)), in 0..1

    loss = mean_i w_i CE_i + independence * dependence       HSIC(f, g) = tr(K H L H), Gaussian kernels of median width

`tunewright.pieces.domain_shift.shifts` says which of a zoo's models is which. Both left out is plain cross-entropy.
Depends on the whole optimizer batch; micro-steps see the same.

Not seen: the paper's text and settings beyond its abstract; classes count as equally frequent in w, and the dependence
is normalised, which are our choices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor
from torch.nn import functional as F

from tunewright.contract.batch import Batch, Loss, Outputs
from tunewright.contract.method import Method, Need, Needs
from tunewright.methods.needs.auxiliary_outputs import AuxiliaryOutputs
from tunewright.pieces.heads import pooled_features


def balancing_weights(logits: Tensor, labels: Tensor, most: float) -> Tensor:
    """[R] min(most, 1 / (C p(y))), divided by their mean; an auxiliary's logits [R, C], labels [R]. No gradient."""
    log_p = logits.detach().float().log_softmax(-1).gather(-1, labels[:, None])[:, 0]
    w = (-log_p).exp().div(logits.shape[-1]).clamp(max=most)
    return w / w.mean()


def kernel(features: Tensor) -> Tensor:
    """[R, R] centred Gaussian kernel of rows [R, D]; its width is the median distance between rows (no gradient)."""
    square = torch.cdist(features.float(), features.float(), compute_mode="donot_use_mm_for_euclid_dist").square()
    off = square.detach()[~torch.eye(len(square), dtype=torch.bool, device=square.device)]
    k = torch.exp(-square / off.median().clamp_min(1e-12)) if off.numel() else torch.ones_like(square)
    k = k - k.mean(0, keepdim=True)
    return k - k.mean(1, keepdim=True)


def dependence(f: Tensor, g: Tensor) -> Tensor:
    """Normalised HSIC of rows [R, D] and [R, E], a scalar in 0..1: 0 for independent rows (as R grows), 1 for equal
    ones.
    """
    k, m = kernel(f), kernel(g)
    return (k * m).sum() / ((k * k).sum() * (m * m).sum()).clamp_min(1e-24).sqrt()


class DiverseModelZoo(Method):
    """Balance rows by one auxiliary classifier, and stay independent of another's features."""

    correlated: str | None = Field(
        "correlated", description="of the recipe's `models`, the one that rows are balanced by; none: no balancing"
    )
    diverse: str | None = Field(
        "diverse", description="of the recipe's `models`, the one to be independent of; none: no such term"
    )
    independence: NonNegativeFloat = Field(
        1.0, description="weight of the dependence (0..1) beside the cross-entropy in nats", examples=[0.1]
    )
    most: PositiveFloat = Field(
        10.0, description="largest weight of a row, before weights are divided by their mean", examples=[0.3]
    )

    couples: ClassVar[Literal["token", "row", "batch"]] = "batch"
    tasks: ClassVar[tuple[str, ...] | None] = ("image-classification", "text-classification")
    papers: ClassVar[tuple[str, ...]] = ("diverse-model-zoo",)
    conformance: ClassVar[dict[str, object]] = {"correlated": "teacher", "diverse": "other"}

    @property
    def _auxiliaries(self) -> tuple[str, ...]:
        return tuple(n for n in (self.correlated, self.diverse) if n is not None)

    def needs(self) -> Sequence[Need]:
        return (AuxiliaryOutputs(models=self._auxiliaries),) if self._auxiliaries else ()

    def objective(self, outputs: Outputs, batch: Batch, needs: Needs) -> Loss:
        each = F.cross_entropy(outputs.logits.float(), batch.labels, reduction="none")
        if not self._auxiliaries:
            return Loss(each.mean())
        by_name = dict(zip(self._auxiliaries, needs.auxiliary_outputs, strict=True))
        if self.correlated is not None:
            each = each * balancing_weights(by_name[self.correlated][1], batch.labels, self.most)
        loss = each.mean()
        if self.diverse is not None and self.independence:
            loss = loss + self.independence * dependence(pooled_features(outputs), by_name[self.diverse][0])
        return Loss(loss)
