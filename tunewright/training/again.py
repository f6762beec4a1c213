"""The model run once more for an objective: on other inputs, with other dropout, as the base, or with other weights.

What a method runs here is part of the step: its gradient flows where it is asked to, its operations are counted, and
what it draws comes from the stage's own generators, so that a resumed run draws the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tunewright.contract.batch import Batch, Outputs
from tunewright.errors import MethodError


class Again:
    """Called as `forward(batch, base=False, start=False, weights=None, grad=True, dropout=True, hidden=False)`.

    `batch` is the objective's own or a changed copy of it. `base`: by the untouched base. `start`: by the model as the
    stage began, for a method whose field `reference` is "start". `weights`: values by parameter name that stand in the
    place of those that train for the while (a slowly moving copy). `grad=False` keeps no graph, as with the base, the
    start and `weights`. `dropout=False` runs in evaluation mode. `hidden` keeps all hidden states. Raises MethodError
    where the batch has lost its inputs: an objective over a whole batch (`couples = "batch"`) asks for a Need instead.
    """

    def __init__(self, loop: Any):
        self._loop = loop

    def __call__(
        self,
        batch: Batch,
        *,
        base: bool = False,
        start: bool = False,
        weights: Mapping[str, Tensor] | None = None,
        grad: bool = True,
        dropout: bool = True,
        hidden: bool = False,
    ) -> Outputs:
        if not batch.inputs:
            raise MethodError(
                "the model cannot be run again on a batch that was joined from several",
                where="forward",
                remedy="an objective over the whole batch (couples = 'batch') asks for a Need instead",
            )
        if start and self._loop.start is None:
            raise MethodError(
                "nobody kept the weights with which the stage began",
                where="forward",
                remedy='give the method a field `reference` and let it be "start"',
            )
        grad = grad and not base and not start and weights is None

        @contextmanager
        def inside() -> Iterator[nn.Module]:
            with ExitStack() as stack:
                model: nn.Module = self._loop.adapted.outer
                if base:
                    model = stack.enter_context(self._loop.adapted.base())
                if start:
                    stack.enter_context(self._loop.start.there())
                if weights is not None:
                    stack.enter_context(self._loop.trained.lent(weights))
                if base or start or not dropout:
                    stack.enter_context(self._loop.adapted.evaluating())
                if not grad:
                    stack.enter_context(torch.no_grad())
                yield model

        with inside() as model:
            outputs: Outputs = self._loop.stage.task.forward(model, batch, hidden=hidden)
        return outputs if grad and dropout else _entered(outputs, inside)


def _entered(outputs: Outputs, inside: Callable[[], Any]) -> Outputs:
    """The same outputs, whose head (which runs when it is asked for) is read as the model was then."""

    def logits() -> Tensor:
        with inside():
            return outputs.logits

    def log_probs() -> Tensor:
        with inside():
            return outputs.log_probs()

    return Outputs(
        logits,
        outputs.labels,
        log_probs=log_probs,
        hidden=outputs.hidden,
        features=outputs.features,
        head=outputs.head,
        embeddings=outputs.embeddings,
        raw=outputs.raw,
        present=outputs.present,
    )
