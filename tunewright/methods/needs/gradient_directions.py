"""gradient_directions: the leading singular vectors of the gradient of each linear site's weight."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from tunewright.contract.batch import Batch
from tunewright.contract.method import Need
from tunewright.errors import MethodError
from tunewright.methods.needs import _held
from tunewright.models.sites import Site
from tunewright.pieces.randomised_svd import drawn, leading_svd


class GradientDirections(Need):
    """{"left.<site>": U [out, rank], "right.<site>": V^T [rank, in], "values.<site>": [rank]}, fp32, of the gradient
    G [out, in] of the samples' summed loss in each weight, at the weights that the stage starts with.

    G is never kept: it is met in products with 2 rank vectors, one matrix at a time in each backward pass, in
    2 (iterations + 1) passes over the samples in evaluation mode. Rows are drawn by the seed. A site that the loss does
    not reach is absent. MethodError for a quantised weight, which has no gradient.
    """

    name: ClassVar[str] = "gradient_directions"
    when: ClassVar[Literal["once"]] = "once"
    takes_gradients: ClassVar[bool] = True

    source: str = Field(description="name of the rows to read: train, keep ...")
    samples: PositiveInt = Field(description="rows to read")
    rank: PositiveInt = Field(description="singular vectors of each side")
    iterations: int = Field(2, ge=0, description="turns of subspace iteration; each costs two passes")
    target_modules: str | tuple[str, ...] = Field("all-linear", description="sites to look at")

    def check(self, run: Any) -> None:
        run.with_loss(self.source)
        for site in run.adapted.structure.match(self.target_modules):
            if not site.weight.is_floating_point():
                raise MethodError(
                    f"the weight of '{site.name}' is quantised and has no gradient",
                    where="model",
                    remedy="load the model without quantisation",
                )

    def compute(self, run: Any, batch: Batch | None = None) -> dict[str, Tensor]:
        def loss(batch: Batch) -> Tensor:
            made = run.task.loss(run.task.forward(run.adapted.model, batch), batch)
            total: Tensor = (made.value * (batch.weights if made.weight is None else made.weight)).sum()
            return total

        return _held.kept(
            self,
            run,
            lambda sites: directions(
                sites, loss, lambda: run.batches(self.source, self.samples), self.rank, self.iterations
            ),
        )


def directions(
    sites: list[Site],
    loss: Callable[[Batch], Tensor],
    batches: Callable[[], Iterable[Batch]],
    rank: int,
    iterations: int,
) -> dict[str, Tensor]:
    """What `GradientDirections` gives."""

    def passed(by: Mapping[str, Tensor], turned: bool) -> dict[str, Tensor]:
        sums: dict[str, Tensor] = {}

        def read(name: str, G: Tensor) -> None:
            product = (G.t() if turned else G) @ by[name]
            sums[name] = product if name not in sums else sums[name].add_(product)

        with one_gradient_at_a_time([s for s in sites if s.name in by], read) as weights:
            for batch in batches():
                loss(batch).backward(inputs=weights)
        return sums

    size = {s.name: min(2 * rank, s.in_features, s.out_features) for s in sites}
    starts = {s.name: drawn(s.in_features, size[s.name]).to(s.weight.device) for s in sites}
    found = leading_svd(lambda P: passed(P, False), lambda Q: passed(Q, True), starts, iterations)
    result: dict[str, Tensor] = {}
    for name, (U, S, Vt) in found.items():
        result |= {f"left.{name}": U[:, :rank], f"values.{name}": S[:rank], f"right.{name}": Vt[:rank]}
    return result


@contextmanager
def one_gradient_at_a_time(sites: list[Site], read: Callable[[str, Tensor], None]) -> Iterator[list[Any]]:
    """Inside, `read(name, G)` is given the fp32 gradient [out, in] of each site's weight in each backward pass over the
    weights that this gives; it is dropped before the next one is made. Afterwards everything is as it was.
    """
    weights: list[Any] = [s.module.weight for s in sites]
    before = [(w.requires_grad, w.grad) for w in weights]

    def reader(site: Site) -> Callable[[Tensor], None]:
        def take(weight: Tensor) -> None:
            G = weight.grad
            assert G is not None
            weight.grad = None
            read(site.name, (G.t() if site.kind == "conv1d" else G).float())

        return take

    for w in weights:
        w.requires_grad_(True)
        w.grad = None
    hooks = [w.register_post_accumulate_grad_hook(reader(s)) for s, w in zip(sites, weights, strict=True)]
    try:
        with torch.enable_grad():
            yield weights
    finally:
        for hook in hooks:
            hook.remove()
        for w, (needed, grad) in zip(weights, before, strict=True):
            w.requires_grad_(needed)
            w.grad = grad
