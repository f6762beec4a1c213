"""DSEE: dually sparsity-embedded efficient tuning (Chen et al. 2021, arXiv:2111.00160; papers: dsee).

A sparse base, and a change of it that is low-rank plus very sparse:

    y = x (M * W + s (B A + S))^T     A [r, in], B [out, r] as LoRA's     S: n values, zero at first     s = alpha / r

M keeps all but a share of the entries of every linear layer inside the blocks: those of least size go, over all layers
together, before the first step. W is frozen, so that what is zero stays zero. S has its values where W least resembles
a low-rank matrix: with W = U V + S' + rest, found greedily,

    U <- Q of (W - S') V^T,  V <- U^T (W - S'),  S' <- W - U V where its size is 0.01 or more, twice;
    then V grows by the first 5 rows of the R of QR(W - U V - S')

until U V has half the rank of the layer's narrower side, the places are those of the n largest |S'|.

Folding adds the change to the pruned weight and fills its zeros; beside it the base stays sparse.

Defaults: rank 16, alpha 32, n = 64, threshold 0.01 and 5 rows a round (the authors' code); a fifth of the weights is
pruned (theirs for one of the runs on BERT). Peak rate: LoRA's.
Raises MethodError for `target_modules` that name no layer, a quantised base, and for more values than a layer has.
Differs from the paper in: weights are pruned before the change trains and not between two trainings (W is frozen, so
that the same entries go, and one stage does both); one pool of layers (theirs: query and value apart); no heads are
pruned; the greedy search stops at half of the rank (theirs: after 100 rounds, which is more than a narrow layer has).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from tunewright.errors import MethodError
from tunewright.models.adapted import Adapted
from tunewright.models.sites import Site
from tunewright.pieces.low_rank import Start
from tunewright.pieces.sparse_low_rank import SparseLowRankMethod

THRESHOLD, ROWS, SWEEPS = 0.01, 5, 2


def left_by_low_rank(W: Tensor, start: Tensor, threshold: float = THRESHOLD) -> Tensor:
    """W - U V [out, in] as the search ends: S' where it is as large as the threshold. `start` [1, in]: the first V."""
    V, most = start, max(1, min(W.shape) // 2)
    while True:
        S = torch.zeros_like(W)
        for _ in range(SWEEPS):
            U = torch.linalg.qr((W - S) @ V.t()).Q
            V = U.t() @ (W - S)
            rest = W - U @ V
            S = torch.where(rest.abs() < threshold, 0.0, rest)
        if len(V) >= most:
            return rest
        grown = torch.linalg.qr(rest - S).R[: min(ROWS, most - len(V))]
        V = torch.cat([V, grown])


def smallest(weights: list[Tensor], share: float) -> float:
    """The size below which `share` of all entries of the weights lie."""
    sizes = torch.cat([w.detach().abs().flatten().float() for w in weights])
    k = int(share * len(sizes))
    return float(sizes.kthvalue(k).values) if k else -1.0


class DSEE(SparseLowRankMethod):
    """A pruned base with low-rank and very sparse changes."""

    rank: PositiveInt = Field(16, description="rank r of the product", examples=[8])
    alpha: PositiveFloat = Field(32.0, description="numerator of the scale s = alpha / r", examples=[8])
    num_sparse: PositiveInt = Field(64, description="values n beside the product, a layer", examples=[8])
    prune: float = Field(
        0.2, ge=0, lt=1, description="share of the weights inside the blocks that is set to zero", examples=[0.0]
    )

    category: ClassVar[str] = "hybrid"
    identity: ClassVar[bool] = False
    quantised: ClassVar[bool] = False
    scales_values: ClassVar[bool] = True
    papers: ClassVar[tuple[str, ...]] = ("dsee",)
    conformance: ClassVar[dict[str, object]] = {"rank": 2, "alpha": 4.0, "num_sparse": 16}

    def places(self, start: Start) -> Tensor:
        W = start.site.matrix().detach().float()
        first = torch.tensor([[start.rng.gauss(0, 1) for _ in range(W.shape[1])]]).to(W)
        found = left_by_low_rank(W, first).abs().flatten()
        return found.topk(self.num_sparse).indices.sort().values

    def begin_task(self, adapted: Adapted) -> None:
        sites = adapted.structure.linear_sites() if self.prune else []
        names = [s.weight_name for s in sites]
        weights = [adapted.base_parameters()[n] for n in names]
        cut = smallest(list(weights), self.prune) if weights else -1.0
        for name, weight in zip(names, weights, strict=True):
            adapted.remember(name)
            weight.data.masked_fill_(weight.data.abs() <= cut, 0.0)

    def _check_layer(self, site: Site) -> None:
        super()._check_layer(site)
        size = site.out_features * site.in_features
        if self.num_sparse > size:
            raise MethodError(
                f"'{site.name}' has {size} entries, fewer than {self.num_sparse}",
                where="num_sparse",
                remedy=f"write num_sparse: {size} or less",
            )
