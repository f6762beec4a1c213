"""Inputs at random of models that read no tokens, by what their configs say: what copies of a model are compared on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tunewright.tasks import _forecasters, _policies

_SIDE = 224
"""Height and width of pictures where a config names none."""


def inputs_at_random(model: Any) -> dict[str, Tensor] | None:
    """Two rows as a model's own forward takes them, the same each time, in its own precision: steps of an episode
    (policies), walks (forecasters), pixels [2, C, H, W]. None of a model that reads something else, such as tokens.
    """
    config, draw = model.config, torch.Generator().manual_seed(0)
    if config.model_type == _policies.TYPE:
        found = _policies.steps_at_random(config, draw)
    elif config.model_type in _forecasters.TYPES:
        found = _forecasters.walks(config, _forecasters.sizes(config), draw)
    elif getattr(model, "main_input_name", "") == "pixel_values":
        size = getattr(config, "image_size", None) or _SIDE
        high, wide = (size, size) if isinstance(size, int) else size
        found = {"pixel_values": torch.randn(2, int(getattr(config, "num_channels", 3)), high, wide, generator=draw)}
    else:
        return None
    return {name: x.to(model.dtype) if x.is_floating_point() else x for name, x in found.items()}
