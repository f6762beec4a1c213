"""SimPO: simple preference optimization with a reference-free reward (Meng et al. 2024, arXiv:2405.14734, eq. 6).

An answer's reward is its mean log-probability a token, r(y) = beta / |y| log p(y|x). A pair's loss is

    loss = -log sigmoid(r(y+) - r(y-) - gamma)                                                              [nats]

No reference model is asked, so nothing but the learning rate holds the model to the base. The mean over tokens keeps a
long answer from winning by its length; gamma asks for a margin. The paper's search: beta 2.0 to 2.5 (up to 10 for
instruct models), gamma / beta 0.3 to 0.7.

Logged: as `dpo`, of r. Equal to `trl`'s CPO trainer with loss simpo, whose gamma is ours.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor
from torch.nn.functional import logsigmoid

from tunewright.contract.batch import Batch, Loss, Outputs
from tunewright.contract.method import Need
from tunewright.methods.preferences._pairs import Preference
from tunewright.pieces.pairs import answer_means, with_rewards


def simpo_loss(chosen: Tensor, rejected: Tensor, beta: float, gamma: float) -> Tensor:
    """The loss of each pair [R] from the mean log-probability a token of its answers [R]."""
    return -logsigmoid(beta * (chosen - rejected) - gamma)


class SimPO(Preference):
    """Make the preferred answer likelier a token than the other, by a margin, with no reference."""

    beta: PositiveFloat = Field(2.0, description="scale of the reward, per nat a token", examples=[1.0])
    gamma: NonNegativeFloat = Field(1.0, description="margin asked between the two rewards", examples=[0.0])

    def needs(self) -> Sequence[Need]:
        return ()

    def objective(self, outputs: Outputs, batch: Batch) -> Loss:
        chosen, rejected = answer_means(outputs.log_probs(), batch)
        return with_rewards(
            simpo_loss(chosen, rejected, self.beta, self.gamma), self.beta * chosen, self.beta * rejected
        )
