"""parameter_importance: how much each tensor of some blocks matters for the loss on other rows, as one number."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from tunewright.contract.batch import Batch
from tunewright.contract.method import Need, State
from tunewright.methods.needs.fisher import mean_loss


class ParameterImportance(Need):
    """{parameter name: I}: I = mean over entries of |w| times the mean over batches of |dL/dw|, in fp32.

    Of every parameter (of the model or of a delta) of the blocks that the asking method's state names in
    `data["blocks"]`, with the weights of the moment, in evaluation mode. `samples` rows of a source, `rows` a batch.
    Gradients are handed over, not left in the parameters.
    """

    name: ClassVar[str] = "parameter_importance"
    when: ClassVar[Literal["once", "prepare", "batch", "redraw", "end"]] = "redraw"
    takes_gradients: ClassVar[bool] = True
    reads_state: ClassVar[bool] = True

    source: str = Field(description="name of the rows to read: keep, train ...")
    samples: PositiveInt = Field(description="rows to read")
    tokens: PositiveInt = Field(2048, description="tokens a batch at most")

    def check(self, run: Any) -> None:
        run.with_loss(self.source)

    def compute(self, run: Any, batch: Batch | None = None, state: State | None = None) -> dict[str, float]:
        assert state is not None
        inside = tuple(run.adapted.structure.blocks[i].name + "." for i in state.data["blocks"])
        held = {n: p for n, p in run.adapted.model.named_parameters() if n.startswith(inside)}
        return importance(
            held,
            lambda: (mean_loss(run, b) for b in run.batches(self.source, self.samples, self.tokens)),
            run.adapted.evaluating,
        )


def importance(parameters: dict[str, Any], losses: Any, evaluating: Any) -> dict[str, float]:
    """I of each parameter by name, from the losses [] that `losses()` gives one after another."""
    was = {n: p.requires_grad for n, p in parameters.items()}
    totals: dict[str, Tensor] = {n: torch.zeros_like(p, dtype=torch.float32) for n, p in parameters.items()}
    count = 0
    try:
        for p in parameters.values():
            p.requires_grad_(True)
        with evaluating(), torch.enable_grad():
            for loss in losses():
                # gradients are asked for, and not left where the next step would add to them
                grads = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
                for name, g in zip(parameters, grads, strict=True):
                    if g is not None:
                        totals[name] += g.float().abs()
                count += 1
    finally:
        for n, p in parameters.items():
            p.requires_grad_(was[n])
    return {n: float((p.detach().float().abs() * totals[n] / max(1, count)).mean()) for n, p in parameters.items()}
