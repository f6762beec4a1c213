"""What preference objectives share: sums over each answer, ratios to the base, and what they log.

A batch holds R pairs; S targets carry `fields["pair"]`: 0 chosen, 1 rejected. A target counts whole, whatever its loss
weight. All tensors are fp32, in nats.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from tunewright.contract.batch import Batch, Loss
from tunewright.contract.method import Method, Need
from tunewright.methods.needs.reference_log_probs import ReferenceLogProbs


def sums(values: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Sum of `values` [S] over the chosen and over the rejected answer of each pair: [R], [R]."""
    sequence = 2 * batch.rows + batch.fields["pair"]
    total = torch.zeros(2 * len(batch.row_ids), dtype=values.dtype, device=values.device).index_add(0, sequence, values)
    return total[::2], total[1::2]


def means(values: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """The same, divided by each answer's number of targets."""
    total, count = sums(values, batch), sums(torch.ones_like(values), batch)
    return total[0] / count[0].clamp(min=1), total[1] / count[1].clamp(min=1)


def compared(losses: Tensor, chosen: Tensor, rejected: Tensor) -> Loss:
    """A loss a pair [R] that logs the implicit rewards [R]: each one's mean, their margin, and how often the chosen
    one's is larger.
    """
    logs = {
        "chosen_reward": chosen,
        "rejected_reward": rejected,
        "margin": chosen - rejected,
        "accuracy": (chosen > rejected).to(losses.dtype),
    }
    return Loss(losses, logs=logs)


class Preference(Method):
    """An objective on pairs that is held to the base. `reward` of an answer: beta x (log-probability - the base's)."""

    weight: PositiveFloat = Field(1.0, description="weight of this objective in the sum", examples=[0.5])

    pairs: ClassVar[bool] = True
    couples: ClassVar[Literal["token", "row", "batch"]] = "row"
    tasks: ClassVar[tuple[str, ...] | None] = ("text-generation",)

    def needs(self) -> Sequence[Need]:
        return (ReferenceLogProbs(),)
