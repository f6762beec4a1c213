"""Breadcrumbs with TIES: both tails masked, then signs elected (mergekit's breadcrumbs_ties; arXiv:2312.06795,
arXiv:2306.01708; papers: model-breadcrumbs).

Every change is masked as in `model-breadcrumbs`; then only entries with the elected sign (as in `ties`) are added:
theta = theta_0 + lambda sum_t w_t m_t of what stayed. Defaults are mergekit's, but for density 0.15 instead of 1, which
would mask nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from tunewright.weights.merge._fields import BreadcrumbsTiesFields
from tunewright.weights.merge._task_vectors import Each, TaskVectors
from tunewright.weights.merge._thinning import breadcrumbs


class BreadcrumbsTies(BreadcrumbsTiesFields, TaskVectors):
    """Mask both tails of task vectors, elect signs, and add what agrees."""

    papers: ClassVar[tuple[str, ...]] = ("model-breadcrumbs",)

    def merge(self, base: Tensor, tensors: Sequence[Tensor], each: Each) -> Tensor:
        def thin(change: Tensor, own: Mapping[str, Any]) -> Tensor:
            return breadcrumbs(change, own["density"], own["gamma"], self.over, self.rescale)

        return self.merged(base, tensors, each, thin)
