"""TIES-Merging: trim, elect signs, average what agrees (Yadav et al. 2023, arXiv:2306.01708; papers: ties).

For each model t, tau_t = theta_t - theta_0:
- trim: the int(density n) largest of its n magnitudes stay, and what equals the smallest of them; the rest becomes 0;
- elect: for every entry the sign of sum_t w_t tau_t, plus where that sum is 0;
- mean: theta = theta_0 + lambda (sum of w_t tau_t with that sign) / (sum of their w_t), theta_0 where none is left.

`over: tensor` (mergekit's and PEFT's way) trims every tensor to the density. `over: model` (the paper's) has one
threshold a model, found exactly by counting magnitudes of all tensors in two passes, without a sort; what a tuning left
alone spends nothing of the budget then. No merged value opposes the elected sign or leaves the range of the values that
agree. density 1 with agreeing signs is the weighted mean.

Differs from the paper's code in: an exact zero sum elects plus, where that code takes the sign that most entries of the
whole model have; that code keeps one entry more than asked. From mergekit in: of equal magnitudes at the threshold it
keeps some. Default density 0.2 is the paper's (mergekit's is 1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from tunewright.contract.method import Needs
from tunewright.weights.merge._fields import TiesFields
from tunewright.weights.merge._task_vectors import (
    Each,
    TaskVectors,
    bucket_of,
    coarse_counts,
    fine_counts,
    kept_of,
    magnitude_bits,
    rescaled,
    trim,
    trim_at,
)

UNREACHED = 0x7FFFFFFF
NOWHERE = (0, 0)
"""Place and threshold of a model of which nothing is kept."""


class Ties(TiesFields, TaskVectors):
    """Trim task vectors, elect a sign for every entry, and average what agrees."""

    papers: ClassVar[tuple[str, ...]] = ("ties",)

    @property
    def passes(self) -> int:
        """How often all tensors are looked through before the first one is merged."""
        return 2 if self.over == "model" else 0

    def survey(
        self, name: str, base: Tensor | None, tensors: Sequence[Tensor], known: Mapping[str, Any]
    ) -> dict[str, Tensor]:
        """Counts of one tensor's magnitudes, [models, buckets]: coarse ones, then fine ones inside the bucket
        sought.
        """
        assert base is not None  # declared as needed
        bits = [magnitude_bits(t.float() - base.float()) for t in tensors]
        if "places" not in known:
            return {"coarse": torch.stack([coarse_counts(b) for b in bits])}
        return {
            "fine": torch.stack([fine_counts(b, bucket) for b, (bucket, _) in zip(bits, known["places"], strict=True)])
        }

    def surveyed(self, sums: Mapping[str, Tensor], known: Mapping[str, Any], each: Each) -> dict[str, Any]:
        """After the first pass each model's (bucket, rank in it); after the second its `thresholds`, as bits."""
        if "coarse" in sums:
            kept = [kept_of(own["density"], int(c.sum())) for own, c in zip(each, sums["coarse"], strict=True)]
            return {"places": [bucket_of(c, k) if k else NOWHERE for c, k in zip(sums["coarse"], kept, strict=True)]}
        thresholds = [
            (b << 15) | bucket_of(c, rank)[0] if rank else UNREACHED
            for (b, rank), c in zip(known["places"], sums["fine"], strict=True)
        ]
        return {"thresholds": thresholds}

    def merge(self, base: Tensor, tensors: Sequence[Tensor], each: Each, needs: Needs) -> Tensor:
        thresholds = iter(needs.thresholds) if self.over == "model" else None

        def thin(change: Tensor, own: Mapping[str, Any]) -> Tensor:
            kept = trim(change, own["density"]) if thresholds is None else trim_at(change, next(thresholds))
            return rescaled(kept, change) if self.rescale else kept

        return self.merged(base, tensors, each, thin)
