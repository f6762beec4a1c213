"""Low-rank changes of convolutions beside those of linear layers, for methods whose start a weight laid out as a matrix
is enough for.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from tunewright.models.deltas import Delta, LowRank, LowRankConv
from tunewright.models.sites import Site, Structure
from tunewright.models.tucker import geometry_of
from tunewright.pieces.low_rank import PatternedLowRank, Start
from tunewright.pieces.target_modules import TARGET_MODULES, with_convolutions

ALL = "all"


class ConvolvingLowRank(PatternedLowRank):
    """A low-rank change on each targeted linear layer and convolution, as PEFT has it on both."""

    target_modules: str | tuple[str, ...] = Field(
        "all-linear",
        description=TARGET_MODULES.replace("which linear layers: ", "which linear layers or convolutions: ").replace(
            ", or module", ", all (convolutions inside the blocks, too), or module"
        ),
        examples=[["q_proj", "v_proj"], ["q_proj"]],
    )

    _elsewhere: ClassVar[str] = "write target_modules: all, which takes convolutions, or use a method for other layers"

    def _targeted(self, structure: Structure) -> list[Site]:
        return with_convolutions(structure) if self.target_modules == ALL else super()._targeted(structure)

    def _form(self, site: Site) -> type[Delta]:
        return LowRankConv if site.kind == "conv" else LowRank

    def _check_layer(self, site: Site) -> None:
        super()._check_layer(site)
        geometry_of(site)  # refuses what it cannot follow, before anything trains

    def delta(self, start: Start, A: Tensor, B: Tensor) -> LowRank:
        plain = super().delta(start, A, B)
        return LowRankConv.on(start.site, plain) if start.site.kind == "conv" else plain
