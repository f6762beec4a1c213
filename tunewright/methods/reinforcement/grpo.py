"""GRPO: group relative policy optimization (Shao et al. 2024, DeepSeekMath, arXiv:2402.03300, eq. 3 and 4).

Each prompt of a step is answered G times by the present model pi_old at a temperature. A sample's advantage is what its
reward is above its own group's mean, so that no value model is needed:

    A_i = (r_i - mean(r_1..G)) / (std(r_1..G) + 1e-4)          [std unbiased; `scale: false` leaves the division out]

With rho_t = pi(o_t) / pi_old(o_t), token by token, and k_t = q(o_t)/pi(o_t) - log(q(o_t)/pi(o_t)) - 1, an unbiased and
never negative estimate of KL(pi || q) to the untouched base q, a sample's loss is the mean over its tokens (its end
too) of

    -min(rho_t A, clip(rho_t, 1 - clip, 1 + clip) A) + beta k_t

and the step's loss the mean over samples. Samples are trained on in `reuse` steps; in the first of them rho = 1 and the
clip does nothing. pi, pi_old and q are all softmax(logits / temperature). A group of equal rewards teaches nothing.

What is rewarded is a method of its own (`exact-answer`, `numeric-answer`, several by their weights). Logged: reward,
reward/<name>, sample_length, sampled_tokens; of the loss kl and clipped (share of tokens at the clip). Equal to `trl`'s
GRPO with loss_type grpo and num_iterations = reuse (there a step's samples go round before they repeat).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from tunewright.contract.batch import Batch, Loss, Outputs
from tunewright.contract.method import Method, Need, Needs
from tunewright.methods.needs.reference_log_probs import ReferenceLogProbs, log_probs_at
from tunewright.methods.reinforcement._policy import clipped_loss
from tunewright.training.rollouts import Rollout, Sample


def advantages(rewards: Tensor, scale: bool = True) -> Tensor:
    """[..., G] rewards of groups to advantages: above the group's mean, in its standard deviations."""
    above = rewards - rewards.mean(-1, keepdim=True)
    return above / (rewards.std(-1, keepdim=True) + 1e-4) if scale else above


def divergence(log_probs: Tensor, reference: Tensor) -> Tensor:
    """The estimate of KL(pi || q) at each token [S], never negative."""
    difference = reference - log_probs
    return difference.exp() - difference - 1


class GRPO(Method):
    """Sample groups of answers; make those better than their group likelier."""

    samples: int = Field(8, ge=2, description="G: answers a prompt", examples=[4])
    max_new_tokens: PositiveInt = Field(32, description="longest answer, in tokens", examples=[2])
    temperature: PositiveFloat = Field(
        1.0, description="divides the logits that answers are drawn from", examples=[0.7]
    )
    clip: PositiveFloat = Field(
        0.2, lt=1, description="largest change of a token's probability, relative, that is rewarded", examples=[0.01]
    )
    beta: NonNegativeFloat = Field(0.04, description="weight of the divergence from the base; 0: none", examples=[0.0])
    reuse: PositiveInt = Field(1, description="optimizer steps on one set of samples", examples=[1])
    scale: bool = Field(True, description="divide advantages by the group's standard deviation", examples=[False])
    weight: PositiveFloat = Field(1.0, description="weight of this objective in the sum", examples=[0.5])

    couples: ClassVar[Literal["token", "row", "batch"]] = "row"
    tasks: ClassVar[tuple[str, ...] | None] = ("text-generation",)
    requires: ClassVar[tuple[str, ...]] = ("reward",)
    rate_factor: ClassVar[float] = 0.25
    conformance: ClassVar[dict[str, object]] = {"samples": 3, "max_new_tokens": 3, "reuse": 2}
    conformance_beside: ClassVar[dict[str, dict[str, Any]]] = {"numeric-answer": {"near": 1.0}}

    def needs(self) -> Sequence[Need]:
        return (ReferenceLogProbs(temperature=self.temperature),) if self.beta else ()

    def rollout(
        self, generate: Callable[..., list[list[Sample]]], score: Callable[[list[Sample]], list[float]]
    ) -> Rollout:
        groups = generate(self.samples, self.max_new_tokens, self.temperature)
        rewards = torch.tensor(score([s for g in groups for s in g]), dtype=torch.float64).view(-1, self.samples)
        above = advantages(rewards, self.scale).tolist()
        rows = [
            (i, s.row(advantage=a, sampled_log_probs=s.log_probs))
            for i, g in enumerate(groups)
            for s, a in zip(g, above[i], strict=True)
        ]
        return Rollout(rows, self.reuse)

    def objective(self, outputs: Outputs, batch: Batch, needs: Needs) -> Loss:
        log_probs = log_probs_at(outputs, self.temperature)
        loss, clipped = clipped_loss(
            log_probs, batch.fields["sampled_log_probs"], batch.fields["advantage"][batch.rows], self.clip
        )
        logs = {"clipped": _means(clipped, batch)}
        if self.beta:
            away = divergence(log_probs, needs.reference_log_probs)
            loss, logs["kl"] = loss + self.beta * away, _means(away, batch)
        return Loss(_means(loss, batch), logs=logs)


def _means(values: Tensor, batch: Batch) -> Tensor:
    """Mean of token values [S] over each row: [R]."""
    empty = torch.zeros(len(batch.row_ids), dtype=values.dtype, device=values.device)
    return empty.index_add(0, batch.rows, values) / empty.index_add(0, batch.rows, torch.ones_like(values)).clamp(min=1)
