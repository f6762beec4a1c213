"""KTO on pairs: Kahneman-Tversky optimization (Ethayarajh et al. 2024, arXiv:2402.01306) where each prompt has both
answers.

An answer is worth what its log-ratio to the base, r(y) = log p(y|x) - log q(y|x), is above a reference point. With R
pairs

    z+ = max(0, mean r(y+)),  z- = max(0, mean r(y-))          over the whole optimizer batch, without gradient
    loss = mean over pairs of 1/2 [1 - sigmoid(beta (r(y+) - z-))] + 1/2 [1 - sigmoid(beta (z+ - r(y-)))]

The reference points estimate KL(p || q): that of the chosen answers from the rejected half and the other way round.
Before the first step the loss is 1/2. Unlike `dpo`, an answer's pull fades on both sides: one that is already far above
(or hopelessly below) the point moves little.

Couples the whole batch through the points: micro-steps see the same points and give the same gradient.
Logged: as `dpo`. Equal in value to the `kto_pair` loss that `trl` had; there the gradient also ran through the points,
which the paper excludes.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from tunewright.contract.batch import Batch, Loss, Outputs
from tunewright.contract.method import Needs
from tunewright.methods.preferences._pairs import Preference
from tunewright.pieces.pairs import answer_sums, with_rewards


def kto_pair_loss(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """The loss of each pair [R] from the log-ratios to the base of the whole batch's answers [R]."""
    above, below = chosen.detach().mean().clamp(min=0), rejected.detach().mean().clamp(min=0)
    return 1 - (torch.sigmoid(beta * (chosen - below)) + torch.sigmoid(beta * (above - rejected))) / 2


class KTOPair(Preference):
    """Raise preferred answers above a common reference point, push the others below it."""

    beta: PositiveFloat = Field(0.1, description="strength of the hold on the base, per nat", examples=[0.5])

    couples: ClassVar[Literal["token", "row", "batch"]] = "batch"
    needs_logits: ClassVar[bool] = False

    def objective(self, outputs: Outputs, batch: Batch, needs: Needs) -> Loss:
        chosen, rejected = answer_sums(outputs.log_probs() - needs.reference_log_probs, batch)
        loss = with_rewards(kto_pair_loss(chosen, rejected, self.beta), self.beta * chosen, self.beta * rejected)
        return Loss(loss.value.mean(), logs=loss.logs)
