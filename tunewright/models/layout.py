"""Pictures laid out channels last where a convolutional network reads them on the CPU.

Its kernels, those for single channels above all, are made for that layout: EfficientNet-Lite0's gradients take two
thirds of the time (benchmarks/layout.py). The layout of what comes in goes on through the network; weights stay as they
are, so that nothing that changes, saves or compares them has to know of it. A transformer gains nothing by it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

FEWEST = 4
"""Convolutions of pictures from which a model counts as a network of them."""


def lay_channels_last(model: nn.Module) -> bool:
    """Have a convolutional model take its pictures in that layout; whether it is one."""
    if sum(isinstance(m, nn.Conv2d) for m in model.modules()) < FEWEST:
        return False
    model.register_forward_pre_hook(_laid, with_kwargs=True)
    return True


def _laid(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return tuple(_last(x) for x in args), {name: _last(x) for name, x in kwargs.items()}


def _last(value: Any) -> Any:
    if isinstance(value, Tensor) and value.ndim == 4 and value.is_floating_point() and value.device.type == "cpu":
        return value.contiguous(memory_format=torch.channels_last)
    return value
