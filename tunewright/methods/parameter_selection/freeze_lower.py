"""Freeze the lower blocks: embeddings and the first n blocks stay what they were, the rest trains.

One of the ways to steady fine-tuning on few rows that Tinn et al. 2021 compare (arXiv:2112.07869; papers:
biomedical-stability): they find it to suit encoders of BERT's base size. Beside it there are `layerwise-decay` (smaller
rates for lower blocks) and `reinit-top` (fresh upper blocks).

Blocks count from the input. A head that is tied to the embeddings stays with them. Frozen blocks keep their dropout.
With 0 blocks the embeddings alone stay. Deltas that hang on frozen blocks do not train either.

Defaults: 6 blocks, half of BERT-base's (ours). MethodError where the model has no more blocks than are frozen.
Differs from the paper in: how many blocks the authors freeze was not read.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from tunewright.contract.method import Candidates, Choice, Method, Setup, State
from tunewright.errors import MethodError


class FreezeLower(Method):
    """Train all but the embeddings and the first blocks."""

    blocks: int = Field(6, ge=0, description="blocks that stay, from the input", examples=[0])

    category: ClassVar[str] = "selective"
    divides: ClassVar[bool] = True
    quantised: ClassVar[bool] = False
    papers: ClassVar[tuple[str, ...]] = ("biomedical-stability",)
    conformance: ClassVar[dict[str, object]] = {"blocks": 1}

    def setup(self, run: Setup) -> State:
        count = len(run.structure.blocks)
        if self.blocks >= count:
            raise MethodError(
                f"{self.blocks} blocks are to stay, and the model has {count}: no block would train",
                where="freeze-lower.blocks",
                remedy=f"write a number below {count}",
            )
        return State()

    def choose(self, candidates: Candidates) -> Choice:
        structure = candidates.structure
        frozen = {n for block in structure.blocks[: self.blocks] for n in block.parameter_names}
        frozen |= {s.weight_name for s in structure.sites if s.kind == "embedding"}
        below = {n for names in candidates.deltas_by_block()[: self.blocks] for n in names}
        base = [n for n in candidates.base if n not in frozen]
        return Choice((*base, *(n for n in candidates.deltas if n not in below)))
