"""Tent: become surer of the rows at hand through scale and shift of the norms (Wang et al. 2021, arXiv:2006.10726;
papers: tent).

Of each batch x [R, ...] of the stream, with p = softmax f(x) [R, V] in nats:

    loss = mean_r H(p_r),  H(p) = -sum_v p_v log p_v;   (gamma, beta) <- Adam step on the loss, `steps` times

over scale and shift of all norms (batch norm, layer norm, RMS norm) and nothing else. A batch is answered by the
forward whose gradient is taken, that is before its own last step, as in the authors' code. With `batch_statistics`
batch norm normalises by the batch instead of by what it kept in training; other norms have no statistics.

Defaults: learning rate 1e-3, one step, Adam(0.9, 0.999) (the authors' CIFAR-10-C configuration, there in batches of
200; small batches want a smaller rate). Raises MethodError for a model without norms that have a scale. Differs from
the paper in: for ImageNet it took SGD at 2.5e-4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from tunewright.contract.method import Candidates, Method
from tunewright.contract.unlabelled import Moving, Unjudged, Unlabelled
from tunewright.pieces.entropies import entropy
from tunewright.pieces.norms import norm_parameters


class Tent(Method):
    """Minimise the entropy of the answers over the norms' scale and shift, batch by batch."""

    learning_rate: PositiveFloat = Field(1e-3, description="of Adam, a step")
    steps: PositiveInt = Field(1, description="steps on each batch; it is answered by the last one's forward")
    batch_statistics: bool = Field(
        True, description="batch norm takes mean and variance of the present batch (no effect without batch norm)"
    )

    takes_gradients: ClassVar[bool] = True
    papers: ClassVar[tuple[str, ...]] = ("tent",)

    def adapts(self, candidates: Candidates) -> Sequence[str]:
        """Scale and shift of every norm."""
        return norm_parameters(candidates)

    def adapt(self, batch: Unlabelled, forward: Callable[..., Unjudged], weights: Moving) -> Tensor:
        for _ in range(self.steps):
            logits = forward(batch, grad=True, batch_statistics=self.batch_statistics).logits
            weights.descend(entropy(logits).mean(), self._optimizer)
        return logits

    def _optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=self.learning_rate)
