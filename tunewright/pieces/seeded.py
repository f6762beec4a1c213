"""Layers and modules that start from a generator: global randomness is neither read nor changed.

The generator is torch's, on the CPU: `torch_generator(rng)` of `tunewright.contract.method`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from tunewright.models.generators import seeded


def uniform_linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """torch's usual start: weight [outputs, inputs] and bias [outputs] uniform in +-1/sqrt(inputs)."""
    layer: Any = nn.utils.skip_init(nn.Linear, inputs, outputs)
    for p in layer.parameters():
        nn.init.uniform_(p, -(inputs**-0.5), inputs**-0.5, generator=generator)
    linear: nn.Linear = layer
    return linear


def normal_linear(inputs: int, outputs: int, generator: torch.Generator, std: float = 0.02) -> nn.Linear:
    """A transformer's usual start: weight [outputs, inputs] normal with deviation `std`, cut at +-2; bias zero."""
    layer: Any = nn.utils.skip_init(nn.Linear, inputs, outputs)
    nn.init.trunc_normal_(layer.weight, std=std, generator=generator)
    nn.init.zeros_(layer.bias)
    linear: nn.Linear = layer
    return linear


@contextmanager
def seeded_start(rng: random.Random) -> Iterator[None]:
    """Modules made inside start as their classes do, from one draw of `rng`; every device's generator is put back."""
    with seeded(rng.getrandbits(63)):
        yield
