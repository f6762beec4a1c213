"""Linear: the weighted mean of models (as in Wortsman et al. 2022, arXiv:2203.05482; papers: linear).

theta = sum_t w_t theta_t, divided by sum_t w_t when `normalize`. No base: the models themselves are added, in fp32.
Equal weights give the uniform soup; a base and one tuning of it, with weights 1 - a and a, give a point of the line
between them. One model comes back as it is.

Differs from mergekit in: sums are formed in fp32 whatever the stored type; weights that sum to 0 are refused under a
mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from tunewright.errors import MethodError
from tunewright.weights.merge._fields import LinearFields
from tunewright.weights.merge._task_vectors import Each, single_sum
from tunewright.weights.operator import Merge


def linear(tensors: Sequence[Tensor], weights: Sequence[float], normalize: bool) -> Tensor:
    """sum_t w_t theta_t, over sum_t w_t when `normalize`: fp32, of the tensors' shape.

    MethodError when that sum is 0.
    """
    total = single_sum(weights) if normalize else 1.0
    if abs(total) < 1e-8:
        raise MethodError(
            f"the weights {list(weights)} sum to 0, so that there is no mean",
            where="linear.weight",
            remedy="write normalize: false",
        )
    mixed = weights[0] * tensors[0].float()
    for t, w in zip(tensors[1:], weights[1:], strict=True):
        mixed = mixed + w * t.float()
    return mixed if total == 1 else mixed / total


class Linear(LinearFields, Merge):
    """Average models with weights."""

    papers: ClassVar[tuple[str, ...]] = ("linear",)

    def merge(self, tensors: Sequence[Tensor], each: Each) -> Tensor:
        return linear(tensors, [own["weight"] for own in each], self.normalize).to(tensors[0].dtype)
