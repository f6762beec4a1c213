"""Breadcrumbs with TIES: both tails masked, then signs elected (mergekit's breadcrumbs_ties; arXiv:2312.06795,
arXiv:2306.01708; papers: model-breadcrumbs).

Every change is masked as in `model-breadcrumbs`; then only entries with the elected sign (as in `ties`) are added:
theta = theta_0 + lambda sum_t w_t m_t of what stayed. Defaults are mergekit's, but for density 0.15 instead of 1, which
would mask nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from tunewright.weights.merge._task_vectors import Each, TaskVectors
from tunewright.weights.merge._thinning import breadcrumbs


class BreadcrumbsTies(TaskVectors):
    """Mask both tails of task vectors, elect signs, and add what agrees."""

    density: float = Field(0.15, ge=0, le=1, description="share of a change's entries that stays", examples=[0.5])
    gamma: float = Field(
        0.01, ge=0, le=1, description="share of a change's largest entries that is dropped", examples=[0.2]
    )
    over: Literal["tensor", "row"] = Field(
        "tensor", description="what the shares are counted in: each tensor, or each row of it"
    )
    rescale: bool = Field(False, description="scale a masked change to the sum of magnitudes that it had")

    election: ClassVar[bool] = True
    per_model: ClassVar[tuple[str, ...]] = ("weight", "density", "gamma")
    mergekit_defaults: ClassVar[dict[str, Any]] = {"density": 1.0}
    papers: ClassVar[tuple[str, ...]] = ("model-breadcrumbs",)

    def merge(self, base: Tensor, tensors: Sequence[Tensor], each: Each) -> Tensor:
        def thin(change: Tensor, own: Mapping[str, Any]) -> Tensor:
            return breadcrumbs(change, own["density"], own["gamma"], self.over, self.rescale)

        return self.merged(base, tensors, each, thin)
