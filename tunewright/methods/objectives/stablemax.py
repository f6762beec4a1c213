"""StableMax: cross-entropy under a softmax that does not collapse in floating point (Prieto et al. 2025,
arXiv:2501.04697; papers: stablemax).

The exponential of the softmax is replaced by a function that grows linearly:

    s(x) = x + 1 where x >= 0, else 1 / (1 - x);    p_y = s(z_y) / sum_k s(z_k);    loss = -log p_y

so that no logit's share is rounded away however large another grows, and gradients on fitted rows do not vanish.
Logits z [S, V]; the sums run in float64, as in the authors' code. A model that was pre-trained under the softmax says
something else under s: decoding takes the largest logit, which is the same, but the log-likelihoods and the drift that
are measured are still those of the softmax.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from tunewright.contract.batch import Loss, Outputs
from tunewright.contract.method import Method

TINY = 1e-30  # the authors' code's, against a division by zero


def linear_exponential(x: Tensor) -> Tensor:
    """s(x), elementwise: positive, increasing, s(0) = 1."""
    return torch.where(x < 0, 1 / (1 - x.clamp(max=0) + TINY), x + 1)


def log_stablemax(logits: Tensor) -> Tensor:
    """Logarithm of each class's share [.., V], in float64."""
    s = linear_exponential(logits.double())
    return torch.log(s / s.sum(-1, keepdim=True))


class StableMax(Method):
    """Cross-entropy with a linear growth in the exponential's place."""

    weight: PositiveFloat = Field(1.0, description="weight of this objective in the sum", examples=[0.5])

    papers: ClassVar[tuple[str, ...]] = ("stablemax",)

    def objective(self, outputs: Outputs) -> Loss:
        shares = log_stablemax(outputs.logits).gather(-1, outputs.labels[:, None])[:, 0]
        return Loss(-shares.float())
