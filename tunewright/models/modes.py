"""Training and evaluation mode of a model that is adapted.

Layers with running statistics (batch norm) stay in evaluation mode while the rest trains: the base's statistics are
part of the base, which must be had back bit for bit, and a step must not depend on how its rows are split into
micro-batches. Their scale and shift train like other parameters.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


def set_training(model: nn.Module, mode: bool = True) -> nn.Module:
    """`model.train(mode)`, but for layers that keep running statistics."""
    model.train(mode)
    if mode:
        for m in model.modules():
            if isinstance(getattr(m, "running_mean", None), Tensor):
                m.eval()
    return model


def keep_nothing(model: nn.Module) -> None:
    """Let layers that keep what they computed from their weights in evaluation mode compute it anew each time.

    Weights are exchanged in place, and such a layer (LeViT's attention biases) would go on with those of before. Known
    by a `train` of its own, which is where it forgets them.
    """
    for m in model.modules():
        own = next(c for c in type(m).__mro__ if "train" in vars(c))
        if own is not nn.Module and own.__name__ != "PreTrainedModel":  # the library's own passes the mode on
            m.register_forward_pre_hook(_forget)


def _forget(module: nn.Module, inputs: Any) -> None:
    if not module.training:
        module.train()
        module.eval()


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """Inside, batch norm takes mean and variance from the present batch; what it keeps is not touched.

    A layer without running statistics normalises by its batch in evaluation mode, too.
    """
    kept = [
        (m, m._buffers["running_mean"], m._buffers["running_var"])
        for m in model.modules()
        if isinstance(getattr(m, "running_mean", None), Tensor)
    ]
    try:
        for m, _, _ in kept:
            m._buffers["running_mean"] = m._buffers["running_var"] = None
        yield
    finally:
        for m, mean, variance in kept:
            m._buffers["running_mean"], m._buffers["running_var"] = mean, variance


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Inside, no module is in training mode; afterwards each is in the mode it was in."""
    training = [m for m in model.modules() if m.training]
    for m in training:
        m.training = False
    try:
        yield
    finally:
        for m in training:
            m.training = True
