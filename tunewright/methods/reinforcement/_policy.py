"""What the clipped loops here share: the policy's loss of a token."""

from __future__ import annotations

import torch
from torch import Tensor


def clipped_loss(log_probs: Tensor, old: Tensor, advantage: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """The policy loss of each token [S], and whether it is held by the clip; all arguments [S]."""
    ratio = torch.exp(log_probs - old)
    free, clipped = ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage
    return -torch.minimum(free, clipped), (clipped < free).to(ratio.dtype)
