"""The pretended device's generator: numbers of its own, drawn on the CPU, apart from the CPU's generator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from tests.pretend_device.rules import Operation
from tests.pretend_device.state import CUDA, asked

Real = torch.Generator
OTHER = 0x5EED_0F_C0DA
"""Mixed into seeds, so that a seed gives other numbers on the device than on the CPU, as it does on a real one."""


class _Kind(type(Real)):  # type: ignore[misc]
    """Generators made before the pretence are still instances of `torch.Generator`."""

    def __instancecheck__(cls, value: Any) -> bool:
        return isinstance(value, Real)


class Generator(Real, metaclass=_Kind):
    """`torch.Generator` while the device is pretended: "cuda" is a device it can be made for."""

    _place: torch.device

    def __new__(cls, device: Any = "cpu") -> Generator:
        made = Real.__new__(cls)
        made._place = CUDA if asked(device) == "cuda" else torch.device("cpu")
        if made._place == CUDA:
            made.manual_seed(made.initial_seed())
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self._place

    def manual_seed(self, seed: int) -> Generator:
        super().manual_seed((seed ^ OTHER) if self._place == CUDA else seed)
        return self

    def initial_seed(self) -> int:
        return super().initial_seed() ^ (OTHER if self._place == CUDA else 0)

    def seed(self) -> int:
        self.manual_seed(Real.seed(Real()) & 0x7FFF_FFFF_FFFF_FFFF)
        return self.initial_seed()


def check_generator(op: Operation, given: torch.Generator | None, on: bool) -> None:
    """RuntimeError where a generator of one device draws a tensor on another."""
    wanted = "cuda" if on else "cpu"
    if given is not None and given.device.type != wanted:
        raise RuntimeError(
            f"Expected a '{wanted}' device type for generator but found '{given.device.type}' (pretended; {op.func})"
        )


@contextmanager
def drawing_from(generator: Real | None) -> Iterator[None]:
    """Inside, what draws without naming a generator draws from this one; None leaves the CPU's default."""
    if generator is None:
        yield
        return
    default = torch.default_generator
    before: Tensor = default.get_state()
    default.set_state(generator.get_state())
    try:
        yield
    finally:
        generator.set_state(default.get_state())
        default.set_state(before)
