"""full_gradient: the gradient of frozen weights, of which only the largest entries are ever kept."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from tunewright.contract.batch import Batch, Row
from tunewright.contract.method import Need
from tunewright.errors import MethodError
from tunewright.models.adapted import Adapted


@dataclass
class Gathered:
    """Of one weight [out, in]: `places` [k] (flat, sorted), and there the mean and mean square of the
    micro-batches' gradients [k].
    """

    places: Tensor
    mean: Tensor
    square: Tensor


Gather = Callable[[Mapping[str, int], int], dict[str, Gathered]]


class FullGradient(Need):
    """A function gather(counts, draw) -> {site: Gathered}: the `counts[site]` entries with the largest gradient.

    Candidates are the largest entries in the first micro-batch; mean and mean square run over all of them. The loss is
    the task's, at the present weights with deltas on, in eval mode. Dense gradients exist one matrix at a time and the
    numbers kept are as many as are asked for. `draw` numbers the drawing of rows, so that a resumed run repeats it.
    """

    name: ClassVar[str] = "full_gradient"
    when: ClassVar[Literal["once", "batch", "redraw"]] = "redraw"
    takes_gradients: ClassVar[bool] = True
    source: str = Field("train", description="rows to take the gradient on")
    batches: int = Field(5, gt=0, description="micro-batches, each of `rows` rows")
    rows: int = Field(8, gt=0, description="rows per micro-batch")

    def check(self, run: Any) -> None:
        run.with_loss(self.source)
        for site in run.adapted.structure.linear_sites():
            if not site.weight.is_floating_point():
                raise MethodError(
                    f"the weight of '{site.name}' is quantised and has no gradient",
                    where="model",
                    remedy="load the model without quantisation",
                )

    def compute(self, run: Any, batch: Batch | None = None) -> Gather:
        def gather(counts: Mapping[str, int], draw: int) -> dict[str, Gathered]:
            rows: list[Row] = run.source(self.source)
            picked = random.Random(f"{run.seed}/{self.name}/{self.source}/{draw}").sample(
                rows, min(self.batches * self.rows, len(rows))
            )
            groups = [picked[i : i + self.rows] for i in range(0, len(picked), self.rows)]
            gathered: dict[str, Gathered] = {}
            with (
                gathering(run.adapted, counts, gathered) as weights,
                run.adapted.evaluating() as model,
                torch.enable_grad(),
            ):
                for group in groups:
                    micro_batch = run.task.collate(group, run.packed, seed=run.seed).to(run.device)
                    loss = run.task.loss(run.task.forward(model, micro_batch), micro_batch)
                    ((loss.value * micro_batch.weights).sum() / micro_batch.weights.sum()).backward(inputs=weights)
            for g in gathered.values():
                g.mean /= len(groups)
                g.square /= len(groups)
            return gathered

        return gather


@contextmanager
def gathering(adapted: Adapted, counts: Mapping[str, int], found: dict[str, Gathered]) -> Iterator[list[nn.Parameter]]:
    """Inside, each backward adds to `found` the largest entries of the gradient of each named site's weight.

    Gives those weights. Their gradients are dropped as soon as they are read; afterwards everything is as it was.
    """
    sites = {name: adapted.structure.site(name) for name in counts}
    weights: dict[str, Any] = {name: s.module.weight for name, s in sites.items()}
    before = {name: (w.requires_grad, w.grad) for name, w in weights.items()}

    def reader(name: str) -> Callable[[Tensor], None]:
        def read(weight: Tensor) -> None:
            assert weight.grad is not None
            grad = (weight.grad.t() if sites[name].kind == "conv1d" else weight.grad).reshape(-1).float()
            weight.grad = None
            if name not in found:
                places = torch.sort(grad.abs().topk(counts[name], sorted=False).indices).values
                found[name] = Gathered(
                    places, torch.zeros(len(places), device=grad.device), torch.zeros(len(places), device=grad.device)
                )
            g = found[name]
            g.mean += grad[g.places]
            g.square += grad[g.places] ** 2

        return read

    for w in weights.values():
        w.requires_grad_(True)
        w.grad = None
    hooks = [w.register_post_accumulate_grad_hook(reader(name)) for name, w in weights.items()]
    try:
        yield list(weights.values())
    finally:
        for hook in hooks:
            hook.remove()
        for name, w in weights.items():
            w.requires_grad_(before[name][0])
            w.grad = before[name][1]
