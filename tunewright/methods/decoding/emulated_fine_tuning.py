"""Emulated fine-tuning: decode as if a large base had been tuned (Mitchell et al. 2023, arXiv:2310.12962; papers:
emulated-fine-tuning).

Fine-tuning under a KL penalty multiplies a base's distribution by exp(reward / beta), so that what tuning a small model
changed is a reward: r = log p_tuned - log p_base, per token on the same prefix. Given to a large base instead,

    log p(v) = log p_large(v) + beta (log p_tuned(v) - log p_base(v)) - log Z,   Z = sum_v p_large(v) (p_tuned(v) /
    p_base(v))^beta

with logits [..., V] over one vocabulary, in nats. beta = 1 is up-scaling, as published; 0 is the large base, above 1
the change is amplified. softmax makes logits and log-probabilities equivalent: a constant added to one model's logits
changes nothing. With `top_p` the change counts only for the large base's likeliest tokens that together have that
probability; the others keep their p_large, up to Z. Sums are in fp64: where tuned = base the large base's logits come
out bit for bit, and where large = base the tuned model's. A token that a model rules out (-inf) stays ruled out.

The run's own model is the small one: "tuned" and "base". `large` names one of the recipe's `models`, which must have
the same tokenizer (MethodError). Three forwards a token, each with its own cache; nothing is trained or saved for it.
Not seen: code (the authors' repository holds none); whose probabilities the paper's filter ranks is from memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor

from tunewright.contract.method import Method


def emulated(large: Tensor, tuned: Tensor, base: Tensor, beta: float = 1.0, top_p: float | None = None) -> Tensor:
    """Logits [..., V] of the emulated model, fp32, from those of the three models [..., V] on the same prefix."""
    change = beta * (tuned.double() - base.double())
    if top_p is not None:
        change = torch.where(nucleus(large, top_p), change, 0.0)
    ruled_out = (large == -torch.inf) | (tuned == -torch.inf) | (base == -torch.inf)
    return (large.double() + change).masked_fill(ruled_out, -torch.inf).float()


def nucleus(logits: Tensor, p: float) -> Tensor:
    """[..., V] true for the fewest likeliest tokens whose probabilities sum to at least p; the likeliest always."""
    ordered, order = torch.softmax(logits.double(), -1).sort(dim=-1, descending=True, stable=True)
    inside = ordered.cumsum(-1) - ordered < p
    return torch.zeros_like(inside).scatter(-1, order, inside)


class EmulatedFineTuning(Method):
    """Decode with a large base plus what tuning changed in the run's small model."""

    large: str = Field("large", description="which of the recipe's `models` is the large base", examples=["other"])
    beta: NonNegativeFloat = Field(
        1.0,
        description="weight of the small model's change in log-probability; 0: the large base alone",
        examples=[0.5],
    )
    top_p: float | None = Field(
        None,
        gt=0,
        le=1,
        description="count the change only for the large base's likeliest tokens of this total probability; none: all",
        examples=[0.95],
    )

    tasks: ClassVar[tuple[str, ...] | None] = ("text-generation",)
    papers: ClassVar[tuple[str, ...]] = ("emulated-fine-tuning",)

    def speakers(self) -> tuple[str, ...]:
        """The models that decode together."""
        return ("tuned", "base", self.large)

    def predict(self, logits: Mapping[str, Tensor]) -> Tensor:
        return emulated(logits[self.large], logits["tuned"], logits["base"], self.beta, self.top_p)
