"""DPO: direct preference optimization (Rafailov et al. 2023, arXiv:2305.18290).

Of a prompt x, answer y+ was preferred to y-. With h = [log p(y+|x) - log q(y+|x)] - [log p(y-|x) - log q(y-|x)], where
p is the model, q the untouched base, and log p(y|x) the sum over the answer's tokens (its end included), a pair's loss
is

    loss = -(1 - s) log sigmoid(beta h) - s log sigmoid(-beta h)                                            [nats]

s = 0 is DPO; s > 0 says that this share of the labels is wrong (the authors' "conservative DPO"). Before the first step
h = 0 and the loss is log 2. For s = 0 the gradient is -beta sigmoid(-beta h) (grad log p(y+) - grad log p(y-)): pairs
that the model still ranks wrongly count most. The mean over the pairs of an optimizer step is taken by the loop.

Logged: chosen_reward and rejected_reward (beta times each log-ratio), margin, accuracy (share of pairs with margin >
0). Equal to `trl`'s sigmoid loss; with `label_smoothing` to that of its `CPOTrainer`.
"""

from __future__ import annotations

from pydantic import Field, PositiveFloat
from torch import Tensor
from torch.nn.functional import logsigmoid

from tunewright.contract.batch import Batch, Loss, Outputs
from tunewright.contract.method import Needs
from tunewright.methods.preferences._pairs import Preference
from tunewright.pieces.pairs import answer_sums, with_rewards


def dpo_loss(chosen: Tensor, rejected: Tensor, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """The loss of each pair [R] from the log-ratios to the base of its answers [R]."""
    margin = beta * (chosen - rejected)
    return -(1 - label_smoothing) * logsigmoid(margin) - label_smoothing * logsigmoid(-margin)


class DPO(Preference):
    """Make the preferred answer likelier than the other, relative to the base."""

    beta: PositiveFloat = Field(0.1, description="strength of the hold on the base, per nat", examples=[0.5])
    label_smoothing: float = Field(0.0, ge=0, lt=0.5, description="share of labels taken to be wrong", examples=[0.1])

    def objective(self, outputs: Outputs, batch: Batch, needs: Needs) -> Loss:
        chosen, rejected = answer_sums(outputs.log_probs() - needs.reference_log_probs, batch)
        return with_rewards(
            dpo_loss(chosen, rejected, self.beta, self.label_smoothing), self.beta * chosen, self.beta * rejected
        )
