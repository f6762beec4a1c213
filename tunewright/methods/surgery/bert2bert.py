"""bert2BERT: a larger Transformer that starts from a smaller one's knowledge (Chen et al. 2021, arXiv:2110.07143).

First the model becomes `width` times as wide, by maps g from new places to old ones (`models/widening.py`). The first
places are the old ones; beyond them

    channels of the residual stream   D -> D'    g(i) = i mod D (every channel equally often, for whole widths)
    heads (groups of K and V, with their queries; head size kept)    a draw for each block
    neurons of the MLP                F -> F'    a draw for each block

    who writes:  W'[i, :] = W[g(i), :], b'[i] = b[g(i)]                                    out x in, rows
    who reads:   W'[:, i] = W[:, g(i)] / c(g(i)),  c(j) the copies of j                    columns

`fpi` (function-preserving): the wide model says what the small one says, to rounding, for whole `width`. `aki`
(advanced knowledge, the paper's choice): rows beyond the old ones of queries, keys, values and of the MLP's first
layers come from the block above through the same map, U^{l+1}[g(i), :]; the last block's from itself. That is not the
same function any more, and it breaks the symmetry of copies: under `fpi` copies that are read alike get equal gradients
and stay alike.

Then it becomes `depth` times as deep: L' = round(depth L) blocks, as many whole stacks as fit below, and its top blocks
on top (StackBERT's way), which is another function too. All of it trains, or the deltas of a method beside it.

A head that shares its weight with the embedding cannot divide: the norm before it does. Raises MethodError for a width
that gives no whole numbers, for two stacks of blocks, fused or missing layers; growth that should keep the function is
held to that on a few inputs.

Differs from the paper in: the second half of the method is left open: its first stage of training, on sub-models of the
bottom blocks, is not here (all blocks train from the first step). Channels are copied evenly (there: drawn, which
LayerNorm and RMSNorm do not bear: logits move even by `fpi`); with a width like 1.5 they cannot be, and then this
differs too. What a block writes to the residual stream is copied from the block itself under `aki`. Defaults: width 2
(a source of about half the size, as in the paper), depth 1, aki.
Source: the paper as noted beside the catalogue; a third-party port (zxhcelestes/bert2BERT) was compared in words.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from tunewright.contract.method import Method
from tunewright.errors import MethodError
from tunewright.models.blocks_moved import Rearranged
from tunewright.models.sites import Structure
from tunewright.models.surgery import Surgery
from tunewright.models.widening import Shape, Widened


def drawn(old: int, new: int, rng: random.Random) -> list[int]:
    """A map from `new` places to `old` ones: the old ones in their places, draws after them."""
    return [*range(old), *(rng.randrange(old) for _ in range(new - old))]


def stacked(blocks: int, depth: float) -> list[int]:
    """For each block of a stack `depth` times as deep the old one: whole stacks, then the top blocks."""
    total = round(depth * blocks)
    return [*list(range(blocks)) * (total // blocks), *range(blocks - total % blocks, blocks)]


class Bert2Bert(Method):
    """Grow the model in width and depth before it trains."""

    width: float = Field(2.0, ge=1, description="how many times as wide: channels, heads and neurons", examples=[3.0])
    depth: float = Field(1.0, ge=1, description="how many times as deep", examples=[1.5])
    knowledge: Literal["aki", "fpi"] = Field(
        "aki", description="what new heads and neurons hold: the block above's (aki), or copies of the own (fpi)"
    )

    papers: ClassVar[tuple[str, ...]] = ("bert2bert",)
    identity: ClassVar[bool] = False
    reshapes: ClassVar[bool] = True
    quantised: ClassVar[bool] = False

    def prepare(self, model: Any, structure: Structure, rng: random.Random) -> Sequence[Surgery]:
        blocks = len(structure.blocks)
        if self.width == 1 and round(self.depth * blocks) == blocks:
            raise MethodError(
                f"neither width 1 nor depth {self.depth:g} makes {blocks} blocks grow",
                remedy="write a width of 2, or a larger depth",
            )
        grown: list[Surgery] = []
        if self.width != 1:
            shape = Shape.of(model)
            wide = shape.times(self.width)
            grown.append(
                Widened(
                    [i % shape.channels for i in range(wide.channels)],
                    [drawn(shape.groups, wide.groups, rng) for _ in range(blocks)],
                    [drawn(shape.neurons, wide.neurons, rng) for _ in range(blocks)],
                    above=self.knowledge == "aki",
                )
            )
        if round(self.depth * blocks) != blocks:
            grown.append(Rearranged(stacked(blocks, self.depth)))
        return grown
