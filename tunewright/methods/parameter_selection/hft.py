"""HFT: half fine-tuning (Hui et al. 2024, arXiv:2404.18466; papers: hft).

Each round trains a random half of every block's matrices, by kind: two of the four of attention, one of two norms, and
of the three of a gated MLP two in a random half of the blocks and one in the others. The rest keep the values with
which they entered the round and anchor what the model knew: theta <- theta - eta M u, with M constant (0 or 1) on a
matrix. A frozen matrix has no gradient at all. Embeddings, final norm and head keep training, as in the paper.

Half of the matrices is not half of the parameters where they differ in size (grouped-query attention).
Differs from the paper in: a layer's bias, which the paper's models lack, trains with its matrix.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import ClassVar

from pydantic import Field, PositiveInt

from tunewright.contract.method import Candidates, Choice, Method, Plan


def draw_half(kinds: Mapping[str, Sequence[Sequence[str]]], rng: random.Random) -> tuple[str, ...]:
    """Names to train, sorted. `kinds`: {"attention": [names of block 0, names of block 1, ...], "mlp": ..., ...}.

    Of a group with an odd number of names, a random half of the blocks trains the larger part: a kind's total is half.
    """
    chosen: set[str] = set()
    for blocks in kinds.values():
        larger = set(rng.sample(range(len(blocks)), len(blocks) // 2))
        for i, names in enumerate(blocks):
            extra = len(names) % 2 if i in larger else 0
            chosen.update(rng.sample(sorted(names), len(names) // 2 + extra))
    return tuple(sorted(chosen))


class HalfFineTuning(Method):
    """Train a random half of every block, another one each round."""

    round_steps: PositiveInt | None = Field(
        None, description="optimizer steps between drawings; none: once per stage", examples=[1]
    )

    category: ClassVar[str] = "selective"
    quantised: ClassVar[bool] = False
    papers: ClassVar[tuple[str, ...]] = ("hft",)

    def caution(self, plan: Plan) -> str | None:
        if self.round_steps is None or self.round_steps < plan.steps:
            return None
        return (
            f"one half trains throughout: {plan.steps} steps do not reach round_steps {self.round_steps}; write fewer, "
            "or none to say so"
        )

    def choose(self, candidates: Candidates, rng: random.Random) -> Choice:
        inside = draw_half(candidates.by_kind("attention", "mlp", "norm"), rng)
        biases = (n.removesuffix("weight") + "bias" for n in inside)
        names = (
            *inside,
            *(b for b in biases if b in candidates.base),
            *candidates.outside_blocks,
            *candidates.deltas,
        )
        return Choice(names, redraw_every=self.round_steps)
