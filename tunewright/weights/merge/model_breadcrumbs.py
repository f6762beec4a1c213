"""Model Breadcrumbs: task vectors without their largest and smallest entries (Davari & Belilovsky 2023,
arXiv:2312.06795; papers: model-breadcrumbs).

Of the n magnitudes of a change, the int(gamma n) largest are dropped, the next int(density n) stay, the rest becomes 0.
Where both together exceed n fewer of the largest are dropped; entries that equal an end of what is kept stay. theta =
theta_0 + lambda sum_t w_t of what stayed: no division by the number of models, so that settings may be kept while
models are added. density 1 is task arithmetic. The paper's beta is `density` (a share kept), its alpha is `lambda`.

`over: tensor` counts in every tensor, the layers of the paper's text (and mergekit's way); `over: row` in every row
along the last axis, which the authors' code does: rows shorter than 1 / gamma lose no outlier there, and rows shorter
than 1 / density lose everything. Scalars pass.

Differs from mergekit in: ties at an end. Defaults are where the authors' search starts, density 0.15, gamma 0.006,
lambda 0.2 (from their README); mergekit's are 1, 0.01 and 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from tunewright.weights.merge._fields import ModelBreadcrumbsFields
from tunewright.weights.merge._task_vectors import Each, TaskVectors
from tunewright.weights.merge._thinning import breadcrumbs


class ModelBreadcrumbs(ModelBreadcrumbsFields, TaskVectors):
    """Add task vectors whose largest and smallest entries are masked."""

    papers: ClassVar[tuple[str, ...]] = ("model-breadcrumbs",)

    def merge(self, base: Tensor, tensors: Sequence[Tensor], each: Each) -> Tensor:
        def thin(change: Tensor, own: Mapping[str, Any]) -> Tensor:
            return breadcrumbs(change, own["density"], own["gamma"], self.over, self.rescale)

        return self.merged(base, tensors, each, thin)
