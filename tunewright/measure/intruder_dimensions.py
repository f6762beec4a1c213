"""Intruder dimensions in tuned weights (Shuttleworth et al. 2024, arXiv:2410.21228; papers: intruder-dimensions).

Among a tuned matrix's k strongest left singular vectors, count those that resemble no left singular vector of the
base: max over i of |u_j . u0_i| < threshold. LoRA tends to add such directions, full fine-tuning hardly any, and they
go with forgetting; shrinking them undoes some of it.

With W: [out, in] in fp32 and its thin SVD. Only the signless overlap counts, so neither the sign of a vector nor a
positive factor on W matters. Where out > in the base's thin basis does not span everything, so a vector may be an
intruder merely by leaving that span. Near-equal singular values mix vectors and can fake intruders. Differs from the
paper in: nothing known; fused projections are probed as the one matrix they are stored as.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from tunewright.contract.method import Method
from tunewright.errors import MethodError
from tunewright.measure.intervals import bootstrap_mean
from tunewright.measure.probe import ProbeResult, Side
from tunewright.models.sites import Site, Structure


@dataclass(frozen=True)
class Intruders:
    """Of a matrix's k strongest directions, sorted by singular value: `overlap` [k] with the base's nearest left
    vector, `intruder` [k] where that is below the threshold, and the triplets `u` [out, k], `s` [k], `v` [in, k]."""

    overlap: Tensor
    intruder: Tensor
    u: Tensor
    s: Tensor
    v: Tensor

    @property
    def count(self) -> int:
        return int(self.intruder.sum())


def left_basis(base: Tensor) -> Tensor:
    """Left singular vectors [out, min(out, in)] of a base matrix, fp32."""
    return torch.linalg.svd(base.float(), full_matrices=False)[0]


def find_intruders(
    base: Tensor, tuned: Tensor, k: int = 10, threshold: float = 0.5, *, basis: Tensor | None = None
) -> Intruders:
    """Compare the k strongest directions of `tuned` [out, in] with all of `base`'s; k is at most the smaller side.

    `basis`: `left_basis(base)` if it is at hand. A tuned matrix equal to the base has none, whatever its spectrum.
    """
    if base.shape != tuned.shape or base.dim() != 2:
        raise MethodError(
            f"matrices of one shape are compared, not {tuple(base.shape)} and {tuple(tuned.shape)}",
            where="intruder-dimensions",
        )
    u, s, vh = torch.linalg.svd(tuned.float(), full_matrices=False)
    k = min(k, len(s))
    u, s, v = u[:, :k], s[:k], vh[:k].T
    if torch.equal(base, tuned):
        overlap = torch.ones(k)
    else:
        overlap = ((left_basis(base) if basis is None else basis).T @ u).abs().amax(0)
    return Intruders(overlap, overlap < threshold, u, s, v)


def _matrix(site: Site, stored: Tensor) -> Tensor:
    """A stored weight as [out, in]."""
    w = stored.dequantize() if stored.is_quantized else stored
    return w.t() if site.kind == "conv1d" else w.flatten(1)


class IntruderDimensions(Method):
    """Count the tuned weights' strong directions that the base does not have."""

    directions: PositiveInt = Field(
        10, description="k: how many of each matrix's strongest singular directions are looked at"
    )
    threshold: float = Field(
        0.5, gt=0, le=1, description="overlap (absolute cosine) below which a direction is an intruder"
    )
    blocks: PositiveInt | None = Field(
        None, description="how many blocks are probed, evenly spread; none: all (seconds a large matrix)"
    )

    papers: ClassVar[tuple[str, ...]] = ("intruder-dimensions",)

    def probe(self, base: Side, tuned: Side, structure: Structure) -> ProbeResult:
        """Count over the linear sites inside blocks. MethodError when a side's weights are not there."""
        if not base.weights or not tuned.weights:
            raise MethodError(
                "the probe needs the weights of base and tuned",
                where="intruder-dimensions",
                remedy="measure a change that folds into weights",
            )
        sites = [s for s in structure.linear_sites() if s.block in self._blocks(len(structure.blocks))]
        by_site = [(site, self._of(site, base, tuned)) for site in sites]
        counts = [float(f.count) for _, f in by_site]
        what = (
            f"Of each matrix's {self.directions} strongest singular directions, how many overlap less than "
            f"{self.threshold} with any of the base's."
        )
        return ProbeResult(
            title="Intruder dimensions",
            description=what,
            values={
                "intruders": int(sum(counts)),
                "directions": sum(len(f.overlap) for _, f in by_site),
                "matrices_with_intruders": sum(c > 0 for c in counts),
                "matrices": len(by_site),
                "intruders_a_matrix": bootstrap_mean(counts, groups=[s.block for s, _ in by_site]),
            },
            columns=["matrix", "intruders", "smallest overlap"],
            rows=[[s.weight_name, f.count, float(f.overlap.min())] for s, f in by_site if f.count],
        )

    def _of(self, site: Site, base: Side, tuned: Side) -> Intruders:
        a, b = (_matrix(site, side.weights[site.weight_name]) for side in (base, tuned))
        with torch.inference_mode():
            return find_intruders(a, b, self.directions, self.threshold)

    def _blocks(self, n: int) -> set[int]:
        if self.blocks is None or self.blocks >= n:
            return set(range(n))
        return {round(i * (n - 1) / max(1, self.blocks - 1)) for i in range(self.blocks)}
