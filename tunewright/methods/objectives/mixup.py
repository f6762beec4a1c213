"""Mixup of features: rows are classified as mixtures of two (Zhang et al. 2018, arXiv:1710.09412; of sentences' hidden
representations Guo et al. 2019), an augmentation that Zhou et al. (2023) cross with efficient tuning (papers:
data-augmentation-for-peft).

With pooled features f [B, D] and labels y [B] of the whole optimizer batch, a shuffle s and shares l_i ~ Beta(alpha,
alpha),

    loss = mean_i [ l_i CE(head(h_i), y_i) + (1 - l_i) CE(head(h_i), y_s(i)) ]      h_i = l_i f_i + (1 - l_i) f_s(i)

Depends on the whole batch: micro-steps see the same pairs and give the same gradient. Rows' own weights do not count.
Draws are keyed by the optimizer step. What is measured is the model on plain rows.

Default: alpha 0.4 (Zhang et al. advise 0.1 to 0.4). Differs from the paper in: written after its abstract; which layer
it mixes is not said there, and here it is what the head reads, so that prompts and deltas before it need no change.
"""

from __future__ import annotations

import random
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat
from torch.nn import functional as F

from tunewright.contract.batch import Batch, Loss, Outputs
from tunewright.contract.method import Method, Setup, State
from tunewright.pieces.heads import pooled_features, pooled_head


class Mixup(Method):
    """Cross-entropy on mixtures of two rows' features."""

    alpha: PositiveFloat = Field(
        0.4, description="both parameters of the Beta distribution that shares are drawn from", examples=[2.0]
    )

    couples: ClassVar[Literal["token", "row", "batch"]] = "batch"
    tasks: ClassVar[tuple[str, ...] | None] = ("image-classification", "text-classification")
    papers: ClassVar[tuple[str, ...]] = ("data-augmentation-for-peft",)

    def setup(self, run: Setup) -> State:
        return State(seed=run.rng.getrandbits(31))

    def objective(self, outputs: Outputs, batch: Batch, step: int, state: Any) -> Loss:
        rng, rows = random.Random(f"{state.data['seed']}/{step}"), len(batch.labels)
        features, head = pooled_features(outputs), pooled_head(outputs)
        order = torch.tensor(rng.sample(range(rows), rows), device=features.device)
        share = torch.tensor([rng.betavariate(self.alpha, self.alpha) for _ in range(rows)], device=features.device)
        mixed = share[:, None].to(features.dtype)
        logits = head(mixed * features + (1 - mixed) * features[order]).float()
        own, other = (F.cross_entropy(logits, y, reduction="none") for y in (batch.labels, batch.labels[order]))
        return Loss((share * own + (1 - share) * other).mean())
