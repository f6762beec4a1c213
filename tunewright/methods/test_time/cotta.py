"""CoTTA: follow a slow teacher through a stream that goes on changing, and forget a little of it at every batch
(Wang et al. 2022, arXiv:2203.13591; papers: cotta).

With source weights w0, student w, teacher w' (both begin at w0), of each batch x [R, ...], logits [R, V]:

    y = f_w'(x), or the mean over `views` changed views of f_w'(view(x)) where mean_r max p_w0(x_r) < threshold
    loss = -mean_r sum_v softmax(y)_rv log p_w(x_r)_v;   w <- Adam step
    w' <- ema w' + (1 - ema) w;      then each entry of w goes back to w0 with probability restore

and y is the batch's answer. The teacher errs less than its student and than one view of it; what is restored keeps the
student within reach of its source however long the stream is. The teacher is not restored.

Defaults: learning rate 1e-3, ema 0.999, restore 0.01, threshold 0.92, 32 views, batch norm by the batch (the authors'
CIFAR-10-C configuration, in batches of 200). Raises MethodError on a base held in 4 bits. Differs from the paper in:
views of pictures are moved, turned, zoomed, mirrored, lit otherwise and noisy as there, without changes of saturation,
hue and gamma and without blur; texts have some of their tokens unread (ours); every parameter moves, the position
embeddings too. `mirror` must be off where a mirrored picture means another thing, as of digits.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from tunewright.contract.method import Candidates, Method, State, torch_generator
from tunewright.contract.unlabelled import Moving, Unjudged, Unlabelled
from tunewright.pieces.entropies import cross_entropy
from tunewright.pieces.views import Changes, many


def followed(teacher: Tensor, student: Tensor, ema: float) -> Tensor:
    """ema w' + (1 - ema) w."""
    return ema * teacher + (1 - ema) * student


def restored(weight: Tensor, source: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """The weight with each entry back at its source with probability `share`."""
    back = torch.rand(weight.shape, generator=generator) < share
    return torch.where(back.to(weight.device), source, weight)


class CoTTA(Method):
    """Follow an averaged teacher over averaged views, and restore a few weights at every batch."""

    learning_rate: PositiveFloat = Field(1e-3, description="of Adam, a batch")
    ema: float = Field(0.999, ge=0, lt=1, description="share of itself that the teacher keeps a batch", examples=[0.5])
    restore: float = Field(
        0.01, ge=0, le=1, description="probability that an entry goes back to its source value at a batch"
    )
    threshold: float = Field(
        0.92,
        ge=0,
        le=1,
        description="views are averaged where the source's mean confidence in the batch is below",
        examples=[0.0],
    )
    views: PositiveInt = Field(32, description="changed views that are averaged, a forward of the batch each")
    mirror: bool = Field(True, description="half of the views of pictures are mirrored")
    drop: float = Field(0.1, ge=0, lt=1, description="share of a text's tokens that a view does not read")
    batch_statistics: bool = Field(
        True, description="batch norm takes mean and variance of the present batch (no effect without batch norm)"
    )

    quantised: ClassVar[bool] = False
    takes_gradients: ClassVar[bool] = True
    papers: ClassVar[tuple[str, ...]] = ("cotta",)
    conformance: ClassVar[dict[str, object]] = {"views": 2, "threshold": 1.0, "restore": 0.2}

    def adapts(self, candidates: Candidates) -> Sequence[str]:
        """Every parameter of the model."""
        return [*candidates.base, *candidates.deltas]

    def adapt(
        self,
        batch: Unlabelled,
        forward: Callable[..., Unjudged],
        weights: Moving,
        state: State,
        row_rng: Callable[[int], random.Random],
        rng: random.Random,
    ) -> Tensor:
        teacher = {n: state.get(n, weights.source[n]) for n in weights.parameters}
        answer = self._target(batch, forward, teacher, row_rng)
        logits = forward(batch, grad=True, batch_statistics=self.batch_statistics).logits
        weights.descend(cross_entropy(answer, logits).mean(), self._optimizer)
        generator = torch_generator(rng)
        for name, student in weights.values().items():
            state.set_buffer(name, followed(teacher[name], student, self.ema))
            weights.set({name: restored(student, weights.source[name], self.restore, generator)})
        return answer

    def _target(
        self,
        batch: Unlabelled,
        forward: Callable[..., Unjudged],
        teacher: dict[str, Tensor],
        row_rng: Callable[[int], random.Random],
    ) -> Tensor:
        """The teacher's logits [R, V], averaged over views where the source is not sure of the batch."""
        statistics = {"batch_statistics": self.batch_statistics}
        sure = forward(batch, source=True, **statistics).logits.softmax(-1).amax(-1).mean()
        if float(sure) >= self.threshold:
            return forward(batch, weights=teacher, **statistics).logits
        rngs = [row_rng(i) for i in range(len(batch.row_ids))]
        seen = [
            forward(many(batch, self._changes(), 1, rngs.__getitem__), weights=teacher, **statistics).logits
            for _ in range(self.views)
        ]
        return torch.stack(seen).mean(0)

    def _changes(self) -> Changes:
        return Changes(
            area=(0.81, 1.21), turn=15.0, move=1 / 16, mirror=self.mirror, light=0.3, noise=0.005, drop=self.drop
        )

    def _optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=self.learning_rate)
