"""Activation checkpointing: activations inside blocks are not kept for the backward pass but computed again in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from torch import nn

from tunewright.errors import MethodError
from tunewright.models.streamed import WHERE, as_now, streamed


@contextmanager
def recomputing(model: nn.Module, on: bool) -> Iterator[None]:
    """Inside, blocks recompute their activations if `on` (transformers' own way, non-reentrant, so frozen inputs are
    fine), with what their own forward was told (`as_now`); so do blocks that are brought in one at a time.

    MethodError for a model whose class cannot. The model is as before on leaving.
    """
    if not on and streamed(model) is None:
        yield
        return
    target: Any = model
    if not getattr(target, "supports_gradient_checkpointing", False):
        raise MethodError(
            f"{type(model).__name__} cannot recompute activations",
            where="train.activation_checkpointing" if on else WHERE,
            remedy="set it to false" if on else "remove it",
        )
    was, blocks = target.is_activation_checkpointing, streamed(model)
    target.activation_checkpointing_enable({"use_reentrant": False, "context_fn": as_now})
    try:
        with blocks.recomputing() if blocks is not None else nullcontext():
            yield
    finally:
        if not was:
            target.activation_checkpointing_disable()
