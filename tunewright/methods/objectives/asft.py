"""ASFT: anchored supervised fine-tuning (Zhu et al. 2025, arXiv:2509.23753; papers: asft). With `anchor: 0` it is DFT.

Each target token's cross-entropy is weighted by its own probability, detached, and the model is held to the frozen
base by a divergence over the whole vocabulary at the same teacher-forced position:

    loss(y) = sg(p(y)) (-log p(y)) + lambda KL(q || p),   KL(q || p) = sum_v q(v) (log q(v) - log p(v))    [nats a
    token]

p is the model's softmax, q the base's; the mean over trained tokens is taken by the loop. In fp32. The gradient at the
logits is p(y) (p - onehot(y)) + lambda (p - q), exactly. The divergence is not weighted by p(y) and is 0 at step 0.

Differs from the authors' code in: fp32 throughout; the mean is over all tokens of an optimizer step, not a
micro-batch's; the base answers without dropout.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor

from tunewright.contract.batch import Loss, Outputs
from tunewright.contract.method import Method, Need, Needs
from tunewright.methods.needs.base_logits import BaseLogits


def weighted_by_own_probability(log_probs: Tensor) -> Tensor:
    """sg(p) (-log p) [S] from the labels' log-probabilities [S]: confident tokens count more (DFT)."""
    return -log_probs.detach().exp() * log_probs


def divergence(logits: Tensor, base_logits: Tensor) -> Tensor:
    """KL(base || model) [S] over the vocabulary, from logits [S, V]; no gradient reaches the base."""
    log_p, log_q = logits.float().log_softmax(-1), base_logits.detach().float().log_softmax(-1)
    return (log_q.exp() * (log_q - log_p)).sum(-1)


def asft_loss(logits: Tensor, base_logits: Tensor, labels: Tensor, anchor: float) -> Tensor:
    """The loss of each token [S]; logits and base_logits [S, V], labels [S]."""
    log_probs = logits.float().log_softmax(-1).gather(-1, labels[:, None])[:, 0]
    return weighted_by_own_probability(log_probs) + anchor * divergence(logits, base_logits)


class ASFT(Method):
    """Cross-entropy weighted by the token's own probability, anchored to the base."""

    anchor: NonNegativeFloat = Field(
        0.1, description="lambda, weight of the divergence from the base; 0: none, which is DFT", examples=[0.0, 0.05]
    )
    weight: PositiveFloat = Field(1.0, description="weight of this objective in the sum", examples=[0.5])

    papers: ClassVar[tuple[str, ...]] = ("asft",)

    def needs(self) -> Sequence[Need]:
        return (BaseLogits(),) if self.anchor else ()

    def objective(self, outputs: Outputs, needs: Needs) -> Loss:
        if not self.anchor:
            return Loss(weighted_by_own_probability(outputs.log_probs()))
        return Loss(asft_loss(outputs.logits, needs.base_logits, outputs.labels, self.anchor))
