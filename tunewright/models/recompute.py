"""Activation checkpointing: activations inside blocks are not kept for the backward pass but computed again in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from torch import nn

from tunewright.errors import MethodError
from tunewright.models import context


@contextmanager
def recomputing(model: nn.Module, on: bool) -> Iterator[None]:
    """Inside, blocks recompute their activations if `on` (transformers' own way, non-reentrant, so frozen inputs are
    fine), with the rows that their own forward had (`context.told`).

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
    target.activation_checkpointing_enable(
        {"use_reentrant": False, "context_fn": lambda: (nullcontext(), context.reading(context.told()))}
    )
    try:
        yield
    finally:
        if not was:
            target.activation_checkpointing_disable()
