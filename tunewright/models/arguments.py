"""What a model's forward calls its arguments."""

from __future__ import annotations

import inspect

from torch import nn


def cache_argument(model: nn.Module) -> str | None:
    """The name of the cache of keys and values: "cache" from transformers 5.24 on, "past_key_values" before; None: it takes none."""
    names = inspect.signature(model.forward).parameters
    return next((name for name in ("cache", "past_key_values") if name in names), None)
