"""ssToken: train on the tokens that are being learnt and that look at the prompt (Qin et al. 2025, arXiv:2510.18250).

For the n targets of a row, with the losses l of the present model and those of a history model (the base, or a slowly
moving average of the weights), and a [n], the share of a target's own attention that lies on its row's prompt:

    excess = l_history - l                                   what was learnt since
    score  = loss_share minmax(excess) + (1 - loss_share) a       minmax over the row: (x - min) / (max - min)
    kept:  the ceil(keep n) targets of the highest score; the others have no loss

A kept target weighs n / (number kept), so that a row's loss is still a mean and rates mean what they meant. Scores
carry no gradient. Equal scores: the earlier token is kept. While the model still is its history model all excess is 0
and attention alone decides (with `loss_share: 1` the first tokens are kept).

Costs a forward for the history model and one for the attention, both without gradient.

Defaults: keep 0.6, loss_share 0.5, the last block, the base as history (the authors' code: jianke0604/ssToken).
Differs from the paper in: the share of attention is read in a forward of its own without dropout (the code computes it
from the states of the training forward); a prompt is what comes before a row's first answer, also where later turns
have losses; in a text without a prompt a is 0 and the excess alone decides; the code's first rows by attention alone
are left to the excess being 0 then. With `decay`, a method that draws anew what trains cannot stand beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from tunewright.contract.batch import Batch, Loss, Outputs
from tunewright.contract.method import Method, Need, Needs
from tunewright.contract.state import COPY, State
from tunewright.methods.needs.attention_to_prompt import AttentionToPrompt


def scored(excess: Tensor, attention: Tensor, loss_share: float) -> Tensor:
    """[n] scores of one row's targets from their excess losses and their attention to the prompt."""
    span = excess.max() - excess.min()
    return loss_share * (excess - excess.min()) / (span + 1e-8) + (1 - loss_share) * attention


def kept(scores: Tensor, share: float) -> Tensor:
    """[n] weights: n / k for the k = ceil(share n) highest scores, 0 for the others; the earlier one where equal."""
    n = len(scores)
    k = math.ceil(share * n - 1e-9)  # 0.6 x 5 is a little more than 3 in binary
    weights = torch.zeros_like(scores)
    weights[scores.argsort(descending=True, stable=True)[:k]] = n / k
    return weights


class SSToken(Method):
    """Cross-entropy on the share of each answer's tokens that score highest."""

    keep: float = Field(0.6, gt=0, le=1, description="share of a row's targets that keep their loss", examples=[0.3])
    loss_share: float = Field(
        0.5,
        ge=0,
        le=1,
        description="share of the score that the excess loss has; the rest is attention",
        examples=[0.9],
    )
    block: int = Field(-1, description="block whose attention is read; negative: from the end", examples=[0])
    decay: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="share of itself that the history model keeps a step; none: it is the base",
        examples=[0.5],
    )
    weight: PositiveFloat = Field(1.0, description="weight of this objective in the sum", examples=[0.5])

    tasks: ClassVar[tuple[str, ...] | None] = ("text-generation",)
    papers: ClassVar[tuple[str, ...]] = ("sstoken",)

    def needs(self) -> Sequence[Need]:
        return (AttentionToPrompt(block=self.block),)

    def objective(
        self, outputs: Outputs, batch: Batch, forward: Callable[..., Outputs], needs: Needs, state: State
    ) -> Loss:
        log_p = outputs.log_probs()
        if self.decay is None:
            before = forward(batch, base=True, grad=False)
        else:
            held = state.copies()
            before = forward(batch, weights=held, grad=False, dropout=False)
        excess = log_p.detach() - before.log_probs().detach()
        weights = torch.zeros_like(excess)
        for row in batch.rows.unique().tolist():
            mine = batch.rows == row
            score = scored(excess[mine], needs.attention_to_prompt[mine], self.loss_share)
            weights[mine] = kept(score, self.keep)
        return Loss(-log_p, batch.weights * weights, logs={"excess": excess})

    def after_step(self, parameters: Mapping[str, Tensor], state: State) -> None:
        if self.decay is None:
            return
        copies = state.copies()
        for name, value in parameters.items():
            old = copies.get(name)
            now = value.detach().clone() if old is None else old.lerp(value.detach(), 1 - self.decay)
            state.set_buffer(COPY + name, now)
