"""IST: importance-aware sparse tuning of adapters (Yao et al. 2024, arXiv:2410.11772; papers: ist).

Every step trains the adapters of a few blocks only. Blocks are drawn by a score that trials correct: now and then the
adapters of half of the blocks are weakened and the loss is measured. Where weakening helps, the block is unimportant.

    s in R^L, zeros; p = sigmoid(s)                                    one score per block, large where it matters
    little drawn: max(1, floor(L/4)) blocks without replacement, weights sigmoid(-s)                       every
    optimizer step trial: sets S_1..S_3 of floor(L/2) blocks, all different, weights sigmoid(s); l_k the loss with S_k
    at a quarter r_k = exp(-l_k) - mean_j exp(-l_j);   s_i += 10 sum_{k: i in S_k} r_k p_i (1 - p_i)               every
    10 steps

A block that is not drawn has no gradient in that step and stays as it is, bit for bit; its optimizer moments wait for
its next turn. L counts the blocks that have deltas. Deltas outside blocks train always.

Needs another method's deltas. Raises MethodError when there are none to choose among.

Differs from the paper in: with fewer than four blocks one is drawn, and where fewer than three different sets exist
there are fewer trials (the authors' code fails there, and loops for ever); each delta gets its own strength back (the
authors' code writes one module's scale to all). With losses far above 1 nat exp(-l) is tiny and the scores hardly move;
that is so in the paper.
Source: antgroup/importance-aware-sparse-tuning-IST-paper, ist.py. Not seen: the paper's text.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from tunewright.contract.method import Candidates, Choice, Method, Need, Plan, Setup, State, torch_generator
from tunewright.errors import MethodError
from tunewright.methods.needs.trial_loss import TrialLoss


def draw(weights: Tensor, count: int, rng: random.Random) -> tuple[int, ...]:
    """`count` different places of `weights` [L], drawn one after another in proportion to what is left; sorted."""
    return tuple(sorted(torch.multinomial(weights.cpu(), count, generator=torch_generator(rng)).tolist()))


def draw_different(weights: Tensor, count: int, sets: int, rng: random.Random) -> list[tuple[int, ...]]:
    """Up to `sets` different sets of `count` places (fewer where no more exist), in the order they were drawn."""
    most = min(sets, math.comb(len(weights), count))
    distinct: dict[tuple[int, ...], None] = {}
    while len(distinct) < most:
        distinct[draw(weights, count, rng)] = None
    return list(distinct)


def corrected(scores: Tensor, sets: Sequence[tuple[int, ...]], losses: Sequence[float], rate: float) -> Tensor:
    """New scores [L] after one trial: a set whose weakening gave a lower loss than the others raises its blocks'
    scores.

    `losses` are in nats, one a set. A block in no set keeps its score.
    """
    rewards = torch.exp(-torch.tensor(losses, dtype=scores.dtype))
    rewards = rewards - rewards.mean()
    p = torch.sigmoid(scores)
    out = scores.clone()
    for chosen, reward in zip(sets, rewards, strict=True):
        places = torch.tensor(chosen)
        out[places] += rate * reward * (p * (1 - p))[places]
    return out


class ImportanceAwareSparseTuning(Method):
    """A few blocks a step, the important ones more often."""

    train: float = Field(0.25, gt=0, le=1, description="share of the blocks that train in a step", examples=[1.0])
    suppress: float = Field(
        0.5, gt=0, le=1, description="share of the blocks whose deltas a trial weakens", examples=[1.0]
    )
    factor: float = Field(
        0.25, ge=0, lt=1, description="what a weakened delta's strength is multiplied by", examples=[0.0]
    )
    trials: int = Field(
        3,
        ge=1,
        description="sets of blocks compared in a trial; 1: none to compare, blocks are drawn evenly",
        examples=[1],
    )
    every: int = Field(10, gt=0, description="optimizer steps between trials", examples=[2])
    score_rate: float = Field(10.0, gt=0, description="how far a trial moves the scores, per unit of exp(-loss)")
    trial_rows: int = Field(16, gt=0, description="training rows per trial measures the loss on", examples=[4])

    category: ClassVar[str] = "selective"
    papers: ClassVar[tuple[str, ...]] = ("ist",)
    conformance: ClassVar[dict[str, object]] = {"every": 1, "trial_rows": 2}
    requires: ClassVar[tuple[str, ...]] = ("attach",)
    conformance_beside: ClassVar[dict[str, dict[str, object]]] = {"lora": {"rank": 2}}

    def needs(self) -> Sequence[Need]:
        return (TrialLoss(rows=self.trial_rows),)

    def setup(self, run: Setup) -> State:
        state = State()
        state.set_buffer("scores", torch.zeros(0))
        return state

    def caution(self, plan: Plan) -> str | None:
        if self.every < plan.steps or self.trials == 1:
            return None
        return f"no trial is made: {plan.steps} steps do not reach every {self.every}, and blocks are drawn evenly"

    def choose(self, candidates: Candidates, step: int, needs: Any, state: State, rng: random.Random) -> Choice:
        by_block = candidates.deltas_by_block()
        blocks = [i for i, names in enumerate(by_block) if names]
        if not blocks:
            what = "'ist' chooses among the adapters of blocks, and there are none"
            raise MethodError(what, where="methods", remedy="name an adapter beside it: methods: [lora, ist]")
        scores = state.get_buffer("scores") if step else torch.zeros(len(blocks))
        if step and step % self.every == 0:
            sets = draw_different(torch.sigmoid(scores), max(1, int(self.suppress * len(blocks))), self.trials, rng)
            losses = [needs.trial_loss([blocks[i] for i in chosen], self.factor, step) for chosen in sets]
            scores = corrected(scores, sets, losses, self.score_rate)
        state.set_buffer("scores", scores)
        drawn = draw(torch.sigmoid(-scores), max(1, int(self.train * len(blocks))), rng)
        inside = {n for names in by_block for n in names}
        names = [n for i in drawn for n in by_block[blocks[i]]] + [n for n in candidates.deltas if n not in inside]
        return Choice(tuple(sorted(names)), redraw_every=1, moments="park")
