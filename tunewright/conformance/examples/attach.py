"""attach: hang a delta on a site."""

from __future__ import annotations

import random

from pydantic import Field, PositiveInt

from tunewright.contract.method import Method, torch_generator
from tunewright.models.deltas import LowRank
from tunewright.models.sites import Site
from tunewright.pieces.low_rank import kaiming


class TinyLoRA(Method):
    """A low-rank delta on every linear layer inside the blocks."""

    rank: PositiveInt = Field(2, description="rank r of the change")

    def attach(self, site: Site, rng: random.Random) -> LowRank | None:
        if site.block is None or site.kind != "linear":
            return None
        return LowRank(*kaiming(site, self.rank, torch_generator(rng)), 2.0)
