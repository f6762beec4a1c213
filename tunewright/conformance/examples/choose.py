"""choose: name what trains until the next drawing."""

from __future__ import annotations

from pydantic import Field, PositiveInt

from tunewright.contract.method import Candidates, Choice, Method


class OneBlock(Method):
    """Train one block at a time, from the first to the last and again."""

    every: PositiveInt = Field(2, description="optimizer steps per block", examples=[1])

    def choose(self, candidates: Candidates, step: int) -> Choice:
        blocks = candidates.structure.blocks
        block = blocks[step // self.every % len(blocks)]
        names = tuple(n for n in block.parameter_names if n in candidates.base)
        return Choice(names, redraw_every=self.every, moments="park")
