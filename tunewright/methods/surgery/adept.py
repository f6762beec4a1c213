"""ADEPT: the blocks that matter least for what the model knows are copied, and the copies learn the new (2025,
"Continual Pretraining via Adaptive Expansion and Dynamic Decoupled Tuning").

Before training every block b is scored on general rows, a_b = loss(all parameters of b zero) - loss; the k = share x L
blocks with the lowest scores are copied. A copy stands right after its original, with the outputs of its attention and
of its MLP zero, so that the model says what it said, bit for bit. Only the copies train (the deltas in them, where a
method beside this one attaches some); everything else stays as it is.

Within the copies each tensor p learns at its own rate, every `every` steps anew:

    I_p = mean over entries of |w| * mean over batches of |dL_general / dw|          importance, one number a tensor
    rate_p = rate * schedule * 2 (I_max - I_p) / (I_max - I_min)                     0 for the most important, up to 2

equal importances give 1: so it is at the first step, where zero outputs keep gradients from all that is before them.
Rates differ from the second estimate on.

Needs a model whose blocks add to what passes them by (norms before attention and MLP): others are refused, since their
logits would move. Raises MethodError there and where a block has no such outputs.

Differs from the paper in: general rows are those of `source` (the recipe's keep) in its own form (there: plain text and
instructions, averaged half and half); the importance is that of the tensors that train, as the text has it (the
released optimizer reads the first tensor of each of two groups only); the outputs of the copies are known by the record
of the surgery, not by their being zero; a stage of fewer than 5,000 steps is estimated every tenth of its steps, or its
rates would hardly differ. Defaults: 500 steps and 2 (the paper's); share 0.15, after the share of the
parameters that it trains; rows to read are ours, the number was not seen.
Source: PuppyKnightUniversity/ADEPT, expand.py, calc_importance.py. Not seen: the paper's text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field, PositiveInt
from torch import Tensor

from tunewright.contract.method import Candidates, Choice, Method, Need, Plan, Setup, State
from tunewright.methods.needs.block_importance import BlockImportance
from tunewright.methods.needs.parameter_importance import ParameterImportance
from tunewright.models.blocks_moved import Rearranged
from tunewright.models.sites import Structure


def expanded(scores: Sequence[float], copies: int) -> Rearranged:
    """The stack with the `copies` blocks of the lowest scores each followed by a silent copy; ties go to the lower."""
    chosen = set(sorted(range(len(scores)), key=lambda i: (scores[i], i))[:copies])
    order, silent = [], []
    for i in range(len(scores)):
        order.append(i)
        if i in chosen:
            silent.append(len(order))
            order.append(i)
    return Rearranged(order, silent)


def multipliers(importance: Mapping[str, float], most: float) -> dict[str, float]:
    """`most` for the least important, 0 for the most important, evenly between; half of `most` where all are equal."""
    low, high = min(importance.values()), max(importance.values())
    if high == low:
        return dict.fromkeys(importance, most / 2)
    return {n: most * (high - i) / (high - low) for n, i in importance.items()}


class Adept(Method):
    """Copies of the least important blocks train alone, each tensor the more slowly the more it matters."""

    share: float = Field(
        0.15, gt=0, le=1, description="share of the blocks that is copied (one at least)", examples=[1.0]
    )
    every: PositiveInt = Field(500, description="optimizer steps between estimates of importance at most", examples=[1])
    most: float = Field(2.0, gt=0, description="factor of the rate for the least important tensor", examples=[1.0])
    source: str = Field("keep", description="name of the rows that stand for what is to be kept", examples=["train"])
    samples: PositiveInt = Field(32, description="rows of it that importance is measured on", examples=[1])

    papers: ClassVar[tuple[str, ...]] = ("adept",)
    reshapes: ClassVar[bool] = True
    quantised: ClassVar[bool] = False

    def needs(self) -> Sequence[Need]:
        return (
            BlockImportance(source=self.source, samples=self.samples),
            ParameterImportance(source=self.source, samples=self.samples),
        )

    def prepare(self, structure: Structure, needs: Any) -> Rearranged:
        return expanded(needs.block_importance, max(1, round(self.share * len(structure.blocks))))

    def setup(self, run: Setup) -> State:
        surgery = next((o.surgery for o in reversed(run.adapted.operated) if isinstance(o.surgery, Rearranged)), None)
        return State(blocks=surgery.silent if surgery is not None else [], factors={})

    def choose(self, candidates: Candidates, plan: Plan, needs: Any, state: State) -> Choice:
        inside = tuple(candidates.structure.blocks[i].name + "." for i in state.data["blocks"])
        deltas = [n for n in candidates.deltas if n.startswith(inside)]
        names = deltas or [n for n in candidates.base if n.startswith(inside)]
        kept = {n: i for n, i in needs.parameter_importance.items() if n in set(names)}
        state.data["factors"] = multipliers(kept, self.most)
        return Choice(tuple(sorted(names)), redraw_every=min(self.every, max(2, plan.steps // 10)))

    def rates(self, parameters: Mapping[str, Tensor], state: State) -> dict[str, float]:
        return {n: f for n, f in state.data["factors"].items() if n in parameters}
