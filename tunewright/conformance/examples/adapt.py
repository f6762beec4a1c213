"""adapt: learn from rows without labels while answering them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from tunewright.contract import Candidates, Method, Moving, Unjudged, Unlabelled


class Surer(Method):
    """Make the biases surer of the likeliest class of each row."""

    rate: PositiveFloat = Field(0.1, description="step of plain gradient descent")

    def adapts(self, candidates: Candidates) -> Sequence[str]:
        return [n for n in candidates.base if n.endswith(".bias")]

    def adapt(self, batch: Unlabelled, forward: Callable[..., Unjudged], weights: Moving) -> Tensor:
        log_p = forward(batch, grad=True).logits.log_softmax(-1)
        weights.descend(-log_p.amax(-1).mean(), lambda ps: torch.optim.SGD(ps, lr=self.rate))
        return log_p
