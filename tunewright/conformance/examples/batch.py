"""batch: change a micro-batch before it goes to the device."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from pydantic import Field

from tunewright.contract.batch import Batch
from tunewright.contract.method import Method


class FewerTargets(Method):
    """Let a random share of each row's labels count double."""

    share: float = Field(0.5, gt=0, le=1, description="share of the labels that count double", examples=[0.1])

    def batch(self, batch: Batch, row_rng: Callable[[int], random.Random]) -> Batch:
        draws = [row_rng(i) for i in range(len(batch.row_ids))]
        factors = [1.0 + (draws[int(r)].random() < self.share) for r in batch.rows]
        return batch.replace(weights=batch.weights * torch.tensor(factors))
