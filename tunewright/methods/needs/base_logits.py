"""base_logits: what the model said at the supervised positions before this run changed it."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from tunewright.contract.batch import Batch
from tunewright.contract.method import Need


class BaseLogits(Need):
    """[S, V] logits of the untouched base at a micro-batch's supervised positions, without gradient, in eval mode.

    No second model is held: deltas are switched off and trained tensors swapped for their originals for the while.
    """

    name: ClassVar[str] = "base_logits"
    when: ClassVar[Literal["once", "batch", "redraw"]] = "batch"

    def compute(self, run: Any, batch: Batch | None = None) -> Tensor:
        with run.adapted.base() as model, run.adapted.evaluating(), torch.no_grad():
            logits: Tensor = run.task.forward(model, batch).logits
        return logits.detach()
