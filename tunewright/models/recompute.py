"""Activation checkpointing: activations inside blocks are not kept for the backward pass but computed again in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from tunewright.errors import MethodError


@contextmanager
def recomputing(model: nn.Module, on: bool) -> Iterator[None]:
    """Inside, blocks recompute their activations if `on` (transformers' own way, non-reentrant, so frozen inputs are
    fine).

    MethodError for a model whose class cannot. The model is as before on leaving.
    """
    if not on:
        yield
        return
    target: Any = model
    if not getattr(target, "supports_gradient_checkpointing", False):
        raise MethodError(
            f"{type(model).__name__} cannot recompute activations",
            where="train.activation_checkpointing",
            remedy="set it to false",
        )
    was = target.is_activation_checkpointing
    target.activation_checkpointing_enable({"use_reentrant": False})
    try:
        yield
    finally:
        if not was:
            target.activation_checkpointing_disable()
