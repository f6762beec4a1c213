"""Loss-based reweighting: rows whose loss is low in their step count less (Sow et al. 2025, "Dynamic Loss-Based Sample
Reweighting for Improved Large Language Model Pretraining", arXiv:2502.06733; papers: dynamic-loss-based-reweighting).

For the B rows of an optimizer step, with l_i the mean loss of row i's targets, in nats,

    h_i = (2 l_i - max l - min l) / (max l - min l)                    in -1 .. 1
    f_i = min(h_i + 1, 1)   linupper     losses above the middle of the range count alike, outliers too
          (h_i + 1) / 2     linear
          1 - h_i^2         quadratic    the middle counts most
          |h_i|             extremes     both ends count most
    w_i = exp(f_i / temperature) / sum_j exp(f_j / temperature)

and the loss is sum_i B w_i n_i l_i / sum_i n_i over the rows' n_i targets: plain training where all w_i are 1/B.
Weights carry no gradient and lie within a factor exp(1 / temperature) of one another. Rows of equal loss, or one row
alone, count alike: a step must hold several rows for this to act (see `batch_tokens`).

Weights are of the whole optimizer step: split into micro-batches it is read twice, and gives the same gradient. The
first `start` of the steps are plain, since early losses tell little.

Defaults: linupper and temperature 1 are the paper's best function and its code's value (its larger runs have 0.4);
start 0.05 is the code's 1,000 of 20,000 steps. Source: sowmaster/Sample-Level-Loss-Reweighting-ICLR-2025, trainer.py
(there linear is called upper, quadratic mid).
Differs from the paper in: a row is a document of any length, where the paper's have 512 tokens or more; a target's own
weight counts in its row's mean.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from tunewright.contract.batch import Batch, Loss, Outputs
from tunewright.contract.method import Method, Plan

LEAST = 1e-6
"""Range of losses, in nats, that they are divided by at least."""
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "linupper": lambda h: (h + 1).clamp(max=1.0),
    "linear": lambda h: (h + 1) / 2,
    "quadratic": lambda h: 1 - h**2,
    "extremes": lambda h: h.abs(),
}


def factors(losses: Tensor, function: str, temperature: float) -> Tensor:
    """[B] B w_i, of mean 1, of rows with these losses [B]."""
    low, high = losses.min(), losses.max()
    h = (2 * losses - high - low) / (high - low).clamp(min=LEAST)
    return len(losses) * torch.softmax(FUNCTIONS[function](h) / temperature, 0)


def row_factors(losses: Tensor, weights: Tensor, rows: Tensor, count: int, function: str, temperature: float) -> Tensor:
    """[count] factors of rows from the losses and weights [S] of their targets; 1 of a row of which nothing counts."""
    sums = losses.new_zeros(count).index_add_(0, rows, weights)
    means = losses.new_zeros(count).index_add_(0, rows, losses * weights) / sums.clamp(min=1e-12)
    out, told = torch.ones_like(means), sums > 0
    out[told] = factors(means[told], function, temperature)
    return out


class DynamicLossBasedReweighting(Method):
    """Cross-entropy in which rows count by their own loss."""

    function: Literal["linupper", "linear", "quadratic", "extremes"] = Field(
        "linupper", description="how a row's weight grows with its loss"
    )
    temperature: PositiveFloat = Field(
        1.0, description="how alike rows count: the largest weight is at most exp(1 / temperature) times the smallest"
    )
    start: float = Field(0.05, ge=0, lt=1, description="share of the steps before rows are weighed", examples=[0.5])
    weight: PositiveFloat = Field(1.0, description="weight of this objective in the sum", examples=[0.5])

    couples: ClassVar[Literal["token", "row", "batch"]] = "batch"
    needs_logits: ClassVar[bool] = False
    tasks: ClassVar[tuple[str, ...] | None] = (
        "text-generation",
        "fill-mask",
        "text-classification",
        "image-classification",
    )
    papers: ClassVar[tuple[str, ...]] = ("dynamic-loss-based-reweighting",)

    def objective(self, outputs: Outputs, batch: Batch, step: int, plan: Plan) -> Loss:
        losses = -outputs.log_probs()
        if step < int(self.start * plan.steps):
            return Loss(losses, batch.weights)
        each = row_factors(
            losses.detach(), batch.weights, batch.rows, len(batch.row_ids), self.function, self.temperature
        )
        return Loss(losses, batch.weights * each[batch.rows])
