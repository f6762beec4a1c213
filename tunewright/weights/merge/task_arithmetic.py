"""Task arithmetic: add to the base what tunings changed (Ilharco et al. 2022, arXiv:2212.04089; papers:
task-arithmetic, financial-merging).

theta = theta_0 + lambda sum_t w_t (theta_t - theta_0). A negative weight takes a task away. With w_t = 1/T it is the
mean of the tunings; with one model it is a point of the line between base and tuning. One model of weight 1 comes back,
to the rounding of fp32.

Financial text classification (arXiv:2411.02476) wins generality back by merging four single-task tunings of one
instruct model so, each with weight 0.25 and the instruct model as the base: that is the configuration its first author
published beside the merged models (a second one used model-stock); the paper's own text was not read. As a step:
{task-arithmetic: {weight: 0.25, of: [..., ...]}}.

Differs from mergekit in: nothing but sums in fp32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from tunewright.weights.merge._task_vectors import Each, TaskVectors


class TaskArithmetic(TaskVectors):
    """Add task vectors to the base."""

    papers: ClassVar[tuple[str, ...]] = ("task-arithmetic", "financial-merging")

    def merge(self, base: Tensor, tensors: Sequence[Tensor], each: Each) -> Tensor:
        return self.merged(base, tensors, each, lambda change, own: change)
