"""Methods whose change of a weight is a low-rank product and values at fixed places beside it (`LowRankSparse`).

class AtRandom(SparseLowRankMethod):
    def places(self, start: Start) -> Tensor:
        return drawn_places(start, count)
"""

from __future__ import annotations

import random
from typing import ClassVar

import torch
from torch import Tensor

from tunewright.contract.method import Needs, State, torch_generator
from tunewright.models.sites import Site
from tunewright.models.sparse_low_rank import LowRankSparse
from tunewright.pieces.low_rank import LowRankChange, Start


def drawn_places(start: Start, count: int) -> Tensor:
    """`count` flat places [count] of the layer's weight, each as likely as any other, sorted."""
    site = start.site
    order = torch.randperm(site.out_features * site.in_features, generator=torch_generator(start.rng))
    return order[:count].sort().values


class SparseLowRankMethod(LowRankChange):
    """s B A + t S on each targeted layer: A and B as LoRA's, S zero at `places` until training moves it.

    A method gives `places`, and perhaps where the values start (`values`). `scales_values`: t is s, and not 1.
    """

    dropout: ClassVar[float] = 0.0  # type: ignore[misc]
    scales_values: ClassVar[bool] = False

    def places(self, start: Start) -> Tensor:
        """Flat places [k] in the layer's weight [out, in] that have a value of their own, sorted, none twice."""
        raise NotImplementedError

    def values(self, start: Start, count: int) -> Tensor:
        """Their values [k] as training starts: zero."""
        return torch.zeros(count)

    def attach(self, site: Site, needs: Needs, state: State, rng: random.Random) -> LowRankSparse | None:
        """The layer's change, if the layer is targeted."""
        if site.name not in state.data["sites"]:
            return None
        rank = self.rank_at(site)
        start = Start(site, rank, self.scale_at(site, rank), needs, state, rng)
        A, B = self.initial(start)
        places = self.places(start)
        scale = start.scale if self.scales_values else 1.0
        return LowRankSparse(A, B, start.scale, places, self.values(start, len(places)), scale)
