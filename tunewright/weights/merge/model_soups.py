"""Model soups: averaging weights of several fine-tunings (Wortsman et al. 2022, arXiv:2203.05482; papers: model-soups).

Uniform: theta = sum theta_i / N. Greedy: models are sorted by their held-out score; starting from the best, each is
added when the average with it scores at least as well, so that the soup is never worse than the best single model on
those rows. Averages are formed in fp32 from all that were accepted and then rounded to the stored type. All models
must be fine-tunings of one checkpoint.

Integer buffers must agree and are kept. The held-out score is used to select and is biased after that: report on other
rows. Differs from the paper in: no learned soup.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from tunewright.errors import MethodError
from tunewright.weights.operator import Merge


def average(tensors: Sequence[Tensor]) -> Tensor:
    """The plain mean, formed in fp32 at least and returned in the first tensor's type. Integers must be equal."""
    first = tensors[0]
    if any(t.shape != first.shape for t in tensors):
        raise MethodError(
            f"models to average differ in shape: {sorted({tuple(t.shape) for t in tensors})}",
            remedy="average fine-tunings of one checkpoint",
        )
    if not first.is_floating_point():
        if any(not torch.equal(t, first) for t in tensors):
            raise MethodError(
                "an integer tensor differs between the models", remedy="average fine-tunings of one checkpoint"
            )
        return first.clone()
    kind = torch.promote_types(first.dtype, torch.float32)
    total = torch.zeros(first.shape, dtype=kind, device=first.device)
    for t in tensors:
        total += t.to(kind)
    return (total / len(tensors)).to(first.dtype)


def greedy(count: int, score: Callable[[tuple[int, ...]], float]) -> tuple[int, ...]:
    """Indices of the accepted models, best first.

    `score(indices)`: held-out score of their average, larger is better.
    """
    alone = {i: score((i,)) for i in range(count)}
    order = sorted(alone, key=lambda i: (-alone[i], i))
    accepted: tuple[int, ...] = (order[0],)
    best = alone[order[0]]
    for i in order[1:]:
        mean_score = score((*accepted, i))
        if mean_score >= best:
            accepted, best = (*accepted, i), mean_score
    return accepted


class ModelSoups(Merge):
    """Average the run's model with others."""

    recipe: Literal["uniform", "greedy"] = Field(
        "uniform", description="average all, or only what does not lower the validation score", examples=["greedy"]
    )

    base: ClassVar[Literal["needed", "none", "optional"]] = "none"
    symmetric: ClassVar[bool] = True
    picks: ClassVar[bool] = True
    papers: ClassVar[tuple[str, ...]] = ("model-soups",)

    def pick(self, count: int, score: Callable[[tuple[int, ...]], float]) -> tuple[int, ...]:
        """Which of `count` models to average; `score(indices)` is asked by the greedy recipe only."""
        return tuple(range(count)) if self.recipe == "uniform" else greedy(count, score)

    def merge(self, tensors: Sequence[Tensor]) -> Tensor:
        return average(tensors)
