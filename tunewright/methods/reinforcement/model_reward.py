"""model-reward: samples are worth what trained reward models say of them (Ouyang et al. 2022, arXiv:2203.02155).

`models` names reward models among the recipe's `models`, each with its weight; a sample's reward is their weighted sum.
A reward model is a run of `task: reward-modeling`, or any *ForSequenceClassification folder with one output. It is
frozen, reads the samples of a step in batches, and equal ones once; what it computes counts in the FLOPs of the step.

`partial` says what partial answers earn, r_t being the score after token t and r_0 that of the prompt:

    none    the score of the whole answer, at its last token
    rise    r_t - r_(t-1) at token t: the sum over an answer is r_T - r_0, so that no answer becomes better by it
    score   r_t at token t, as IRCoCo has it (Li et al. 2024, arXiv:2401.16637)

`rise` and `score` need a reward model with the trained model's tokenizer and a decoder's head. A method that knows no
rewards of tokens (grpo, reinforce) gets their sum.

Differs from the paper in: scores are not shifted to a mean of 0 on the training set's answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, PositiveFloat

from tunewright.contract.method import Method, Need, Needs
from tunewright.methods.needs.reward_model import RewardModel
from tunewright.training.rollouts import Sample


def earned(scores: Sequence[float], partial: str) -> list[float]:
    """What each token earns, from the score of the prompt and those after each token [1 + T]: [T]."""
    if partial == "rise":
        return [b - a for a, b in zip(scores, scores[1:], strict=False)]
    return list(scores[1:])


class ModelReward(Method):
    """Reward what a reward model prefers."""

    models: dict[str, float] = Field(
        {"judge": 1.0},
        min_length=1,
        description="reward models among the recipe's `models`, and the weight of each",
        examples=[{"judge": -1.0}],
    )
    partial: Literal["none", "rise", "score"] = Field(
        "none", description="what partial answers earn: nothing, by how much the score rises, or their score"
    )
    weight: PositiveFloat = Field(1.0, description="weight of this reward in the sum", examples=[0.5])

    tasks: ClassVar[tuple[str, ...] | None] = ("text-generation",)
    requires: ClassVar[tuple[str, ...]] = ("rollout",)
    papers: ClassVar[tuple[str, ...]] = ("mistral-plus",)
    conformance_beside: ClassVar[dict[str, dict[str, Any]]] = {"ppo": {"samples": 4, "max_new_tokens": 3}}

    def needs(self) -> Sequence[Need]:
        return (RewardModel(models=tuple(self.models), each=self.partial != "none"),)

    def reward(self, samples: Sequence[Sample], needs: Needs) -> list[float] | list[list[float]]:
        each = self.partial != "none"
        total = [[0.0] * (len(s.ids) if each else 1) for s in samples]
        for name, weight in self.models.items():
            given = needs.reward_model[name].scores(samples, each=each)
            for so_far, scores in zip(total, given, strict=True):
                for t, value in enumerate(earned(scores, self.partial) if each else scores):
                    so_far[t] += weight * value
        return total if each else [one for (one,) in total]
