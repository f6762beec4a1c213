"""A model as measurement takes it: in eval mode, without gradients, and handed back as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from tunewright.models.divided import divided


@contextmanager
def measuring(model: nn.Module) -> Iterator[nn.Module]:
    """Within: eval mode and inference mode. After: every module's own training flag is back."""
    flags = [(m, m.training) for m in model.modules() if m.training]
    model.eval()
    try:
        parts = divided(model)
        with torch.inference_mode(), parts.together() if parts is not None else nullcontext():
            yield model
    finally:
        for module, _ in flags:
            module.training = True


def device_of(model: nn.Module) -> torch.device:
    """The device of the model's first parameter."""
    return next(model.parameters()).device


def logits_of(out: Any) -> torch.Tensor:
    """The logits of a forward's output, object or tuple."""
    return out.logits if hasattr(out, "logits") else out[0]
