"""Where virtual tokens before a row start."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from tunewright.contract.method import torch_generator


def start_prompt(embeddings: Tensor, n: int, rng: random.Random, start: str = "vocabulary") -> Tensor:
    """[n, D] fp32 vectors: embeddings [V, D] of n tokens drawn at random, or uniform in +-0.5."""
    if start == "vocabulary":
        return embeddings[rng.choices(range(len(embeddings)), k=n)].detach().float()
    return torch.empty(n, embeddings.shape[1]).uniform_(-0.5, 0.5, generator=torch_generator(rng))
