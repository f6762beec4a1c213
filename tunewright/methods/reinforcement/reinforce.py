"""REINFORCE with a baseline (Williams 1992), of whole answers: RLOO (Ahmadian et al. 2024, arXiv:2402.14740).

Each prompt of a step is answered k times by the present model pi. With q the reference and R_i the reward of answer i,

    S_i    = R_i - beta sum_t log(pi(o_t) / q(o_t))                                       what the answer is worth
    A_i    = S_i - b_i
    loss_i = -A_i sum_t log pi(o_t)                                          its mean over answers is the step's loss

The baseline b takes variance away and leaves the gradient's expectation as it is: `leave-one-out` is the mean of the
other k - 1 answers to the same prompt, `moving-average` that of all answers of earlier steps (m b + (1 - m) mean S,
beginning with the first step's own mean), `none` is 0. Each set of samples is trained on once, so that there is no
ratio to clip; there is no value head.

Logged: reward, reward/<name>, sample_length, kl (sum of log(pi / q) over an answer).
Defaults: k = 4, leave-one-out and beta 0.05 (trl's RLOO: 2 samples, 0.05); m = 0.9, ours.
Differs from the paper in: nothing that is known.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from tunewright.contract.batch import Batch, Loss, Outputs
from tunewright.contract.method import Method, State
from tunewright.methods.needs.reference_log_probs import log_probs_at
from tunewright.training.rollouts import Rollout, Sample


def others_mean(worth: Tensor) -> Tensor:
    """[.., k]: of each answer the mean of the other answers to its prompt."""
    return (worth.sum(-1, keepdim=True) - worth) / (worth.shape[-1] - 1)


class Reinforce(Method):
    """Make answers likelier that are worth more than others."""

    samples: PositiveInt = Field(4, description="k: answers a prompt", examples=[2])
    max_new_tokens: PositiveInt = Field(32, description="longest answer, in tokens", examples=[2])
    temperature: PositiveFloat = Field(
        1.0, description="divides the logits that answers are drawn from", examples=[0.7]
    )
    baseline: Literal["leave-one-out", "moving-average", "none"] = Field(
        "leave-one-out", description="what an answer's worth is compared with"
    )
    momentum: float = Field(
        0.9, ge=0, lt=1, description="m of the moving average, a step of the optimizer", examples=[0.1]
    )
    reference: Literal["base", "start"] = Field(
        "base", description="what the divergence is from: the untouched base, or the model that the stage starts with"
    )
    beta: NonNegativeFloat = Field(
        0.05, description="what a nat of divergence from the reference costs, in reward", examples=[0.5]
    )
    weight: PositiveFloat = Field(1.0, description="weight of this objective in the sum", examples=[0.5])

    couples: ClassVar[Literal["token", "row", "batch"]] = "row"
    tasks: ClassVar[tuple[str, ...] | None] = ("text-generation",)
    requires: ClassVar[tuple[str, ...]] = ("reward",)
    rate_factor: ClassVar[float] = 0.25
    conformance: ClassVar[dict[str, object]] = {"samples": 3, "max_new_tokens": 3, "baseline": "moving-average"}
    conformance_beside: ClassVar[dict[str, dict[str, Any]]] = {"numeric-answer": {"near": 1.0}}

    @model_validator(mode="after")
    def _has_others(self) -> Self:
        if self.samples == 1 and self.baseline == "leave-one-out":
            raise ValueError("one answer a prompt has no others to compare with: write baseline: moving-average")
        return self

    def rollout(
        self,
        generate: Callable[..., list[list[Sample]]],
        score: Callable[[list[Sample]], list[float]],
        read: Callable[..., list[list[float]]],
        state: State,
    ) -> Rollout:
        groups = generate(self.samples, self.max_new_tokens, self.temperature)
        samples = [s for g in groups for s in g]
        reference = read(
            [s.row() for s in samples],
            lambda outputs, batch: log_probs_at(outputs, self.temperature),
            at=self.reference,
        )
        away = [sum(s.log_probs) - sum(theirs) for s, theirs in zip(samples, reference, strict=True)]
        worth = torch.tensor(score(samples), dtype=torch.float64) - self.beta * torch.tensor(away, dtype=torch.float64)
        above = (worth - self._baseline(worth.view(-1, self.samples), state).reshape(-1)).tolist()
        owners = [i for i, g in enumerate(groups) for _ in g]
        return Rollout(
            [(i, s.row(advantage=a, away=d)) for i, s, a, d in zip(owners, samples, above, away, strict=True)]
        )

    def _baseline(self, worth: Tensor, state: State) -> Tensor:
        """The baseline of each answer, [P, k]; the moving average moves on."""
        if self.baseline == "leave-one-out":
            return others_mean(worth)
        if self.baseline == "none":
            return torch.zeros_like(worth)
        mean = float(worth.mean())
        before = state.data.get("average", mean)
        state.data["average"] = self.momentum * before + (1 - self.momentum) * mean
        return torch.full_like(worth, before)

    def objective(self, outputs: Outputs, batch: Batch) -> Loss:
        log_probs = log_probs_at(outputs, self.temperature)
        said = torch.zeros(len(batch.row_ids), dtype=log_probs.dtype, device=log_probs.device)
        said = said.index_add(0, batch.rows, log_probs)
        return Loss(-batch.fields["advantage"] * said, logs={"kl": batch.fields["away"]})
