"""Objectives on pairs of answers: sums and means over each answer, and what is logged. R pairs, S labels.

The labels' `fields["pair"]` [S] says which answer each belongs to: 0 chosen, 1 rejected. A target counts whole,
whatever its loss weight. All tensors are fp32, in nats.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tunewright.contract.batch import Batch, Loss


def answer_sums(values: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Sum of `values` [S] over the chosen and over the rejected answer of each pair: [R], [R]."""
    sequence = 2 * batch.rows + batch.fields["pair"]
    total = torch.zeros(2 * len(batch.row_ids), dtype=values.dtype, device=values.device).index_add(0, sequence, values)
    return total[::2], total[1::2]


def answer_means(values: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """The same, divided by each answer's number of labels."""
    total, count = answer_sums(values, batch), answer_sums(torch.ones_like(values), batch)
    return total[0] / count[0].clamp(min=1), total[1] / count[1].clamp(min=1)


def with_rewards(losses: Tensor, chosen: Tensor, rejected: Tensor) -> Loss:
    """Losses of pairs [R] that log the implicit rewards [R] of their answers: each one's mean, their margin, and how
    often the chosen one's is larger.
    """
    logs = {
        "chosen_reward": chosen,
        "rejected_reward": rejected,
        "margin": chosen - rejected,
        "accuracy": (chosen > rejected).to(losses.dtype),
    }
    return Loss(losses, logs=logs)
