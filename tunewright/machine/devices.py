"""Which devices torch sees, and waiting for them: the same two questions for CUDA and for Apple's Metal (mps)."""

from __future__ import annotations

import torch


def sees(kind: str) -> bool:
    """Whether torch can compute on "cpu", "cuda" (AMD's GPUs go by that name too) or "mps" here."""
    return kind == "cpu" or (torch.cuda if kind == "cuda" else torch.backends.mps).is_available()


def wait(device: str | torch.device) -> None:
    """Until everything that a device was given is done; a CPU always is."""
    kind = torch.device(device).type
    if kind == "cuda":
        torch.cuda.synchronize(device)
    elif kind == "mps":
        torch.mps.synchronize()
