"""reference_log_probs: how likely the untouched base finds each target."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from tunewright.contract.batch import Batch, Outputs
from tunewright.contract.method import Need


def log_probs_at(outputs: Outputs, temperature: float) -> Tensor:
    """[S] log-probability of each target under softmax(logits / temperature), fp32; at 1 the logits are never kept."""
    if temperature == 1.0:
        return outputs.log_probs()
    return torch.log_softmax(outputs.logits.float() / temperature, -1).gather(-1, outputs.labels[:, None])[:, 0]


class ReferenceLogProbs(Need):
    """[S] log-probabilities of a micro-batch's labels by the untouched base, in nats, without gradient, in eval mode.

    No second model is held: deltas are switched off and trained tensors swapped for their originals for the while. They
    are computed anew each time: values kept from another batch differ in the last bits, so that a resumed run, which
    has kept none, would leave the path of the run that was not interrupted.
    """

    name: ClassVar[str] = "reference_log_probs"
    when: ClassVar[Literal["once", "batch", "redraw"]] = "batch"

    temperature: PositiveFloat = Field(1.0, description="divides the base's logits")

    def compute(self, run: Any, batch: Batch | None = None) -> Tensor:
        with run.adapted.base() as model, run.adapted.evaluating(), torch.no_grad():
            log_probs = log_probs_at(run.task.forward(model, batch), self.temperature)
        return log_probs.detach()
