"""IPO: identity preference optimization (Azar et al. 2023, arXiv:2310.12036, eq. 17).

With h the difference of the two answers' log-ratios to the base (see `dpo`), a pair's loss is

    loss = (h - 1 / (2 tau))^2                                                                       [nats squared]

It stops at the margin h = 1 / (2 tau), where `dpo` goes on for ever: the hold on the base stays when preferences are
deterministic. Before the first step the loss is 1 / (4 tau^2).

`average`: h is made of means over each answer's tokens in place of sums, as `trl` and the authors of the experiments in
Hugging Face's blog have it; the paper's own formula (and the default) sums.
Logged: as `dpo`, with tau for beta.
"""

from __future__ import annotations

from pydantic import Field, PositiveFloat
from torch import Tensor

from tunewright.contract.batch import Batch, Loss, Outputs
from tunewright.contract.method import Needs
from tunewright.methods.preferences._pairs import Preference
from tunewright.pieces.pairs import answer_means, answer_sums, with_rewards


def ipo_loss(chosen: Tensor, rejected: Tensor, tau: float) -> Tensor:
    """The loss of each pair [R] from the log-ratios to the base of its answers [R]."""
    return (chosen - rejected - 1 / (2 * tau)) ** 2


class IPO(Preference):
    """Bring the margin between two answers to a fixed size, relative to the base."""

    tau: PositiveFloat = Field(
        0.1,
        description="strength of the hold on the base, per nat; the margin aimed at is 1 / (2 tau) nats",
        examples=[0.5],
    )
    average: bool = Field(False, description="compare means over an answer's tokens, not sums", examples=[True])

    def objective(self, outputs: Outputs, batch: Batch, needs: Needs) -> Loss:
        ratios = outputs.log_probs() - needs.reference_log_probs
        chosen, rejected = (answer_means if self.average else answer_sums)(ratios, batch)
        return with_rewards(ipo_loss(chosen, rejected, self.tau), self.tau * chosen, self.tau * rejected)
