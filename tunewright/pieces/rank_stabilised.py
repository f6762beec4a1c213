"""What methods beside LoRA share of it: ranks and alphas by layer, and the scale alpha / r or alpha / sqrt(r)."""

from __future__ import annotations

import math
from typing import ClassVar

from pydantic import Field

from tunewright.models.sites import Site
from tunewright.pieces.low_rank import PatternedLowRank


class RankStabilised(PatternedLowRank):
    """A low-rank change whose scale may be rank-stabilised (rsLoRA, Kalajdzievski 2023, arXiv:2312.03732)."""

    use_rslora: bool = Field(False, description="scale by alpha / sqrt(r) instead of alpha / r", examples=[True])

    conformance: ClassVar[dict[str, object]] = {"rank": 2}

    def scale_at(self, site: Site, rank: int) -> float:
        return self.alpha_at(site) / (math.sqrt(rank) if self.use_rslora else rank)
