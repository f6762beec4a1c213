"""Torch's default generators, one a device: read, put back, and kept from being disturbed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

CPU = torch.device("cpu")
States = dict[torch.device, Tensor]
"""device -> the state of its default generator [bytes], on the CPU."""


def present(devices: Sequence[torch.device]) -> States:
    """The generators' states as they are now; a device that has none ("meta") is passed over."""
    states: States = {}
    for d in devices:
        if d.type == "cpu":
            states[d] = torch.get_rng_state()
        elif d.type == "cuda":
            states[d] = torch.cuda.get_rng_state(d)
        elif d.type == "mps":
            states[d] = torch.mps.get_rng_state()
    return states


def put(states: Mapping[torch.device, Tensor]) -> None:
    """Give every generator its state."""
    for d, state in states.items():
        if d.type == "cpu":
            torch.set_rng_state(state)
        elif d.type == "cuda":
            torch.cuda.set_rng_state(state, d)
        elif d.type == "mps":
            torch.mps.set_rng_state(state)


def every_device() -> list[torch.device]:
    """The CPU and each device that this process computes on already: asking starts none."""
    devices = [CPU]
    if torch.cuda.is_initialized():
        devices += [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append(torch.device("mps"))
    return devices


@contextmanager
def undisturbed() -> Iterator[None]:
    """Whatever is drawn or seeded inside, every generator is as it was on leaving."""
    before = present(every_device())
    try:
        yield
    finally:
        put(before)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, each device draws from `seed` on; on leaving, every generator is as it was."""
    with undisturbed():
        # not torch.manual_seed: where no GPU was used yet, that would wait for the first use and seed it then
        torch.default_generator.manual_seed(seed)
        for d in every_device():
            if d.type != "cpu":
                put({d: torch.Generator(device=d).manual_seed(seed).get_state()})
        yield
