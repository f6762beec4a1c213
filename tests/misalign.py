"""Memory that lies askew, on any processor: what files map to, what is allocated, and products that round by it.

`pytest --misalign SEED` puts every test under `Askew`, and the commands that `tests/running.py` runs too. A test that
asks for equal bits where a product may only promise rounding then fails here, and not on a user's processor first.
"""

from __future__ import annotations

import os
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

VARIABLE = "TUNEWRIGHT_TEST_MISALIGN"
"""Holds the seed, for processes that a test starts."""
ALIGNED = 64


def pad_header(file: Path | str, words: int) -> None:
    """Put spaces at the end of a safetensors file's header, so that its tensors lie 8 x `words` bytes further on."""
    data = Path(file).read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    Path(file).write_bytes(
        struct.pack("<Q", size + 8 * words) + data[8 : 8 + size] + b" " * (8 * words) + data[8 + size :]
    )


def at(t: Tensor, offset: int) -> Tensor:
    """A copy of `t` whose memory begins `offset` bytes after a multiple of 64."""
    size = t.numel() * t.element_size()
    raw = torch.empty(size + ALIGNED, dtype=torch.uint8)
    return torch.frombuffer(raw.numpy().data, dtype=t.dtype, count=t.numel(), offset=offset).view(t.shape).copy_(t)


def odd_allocations(rng: random.Random, count: int = 40) -> list[Any]:
    """Tensors, arrays and byte strings of odd sizes; every second one is given back at once, so that holes are left."""
    kinds: list[Callable[[int], Any]] = [
        lambda n: torch.empty(n, dtype=torch.uint8),
        lambda n: np.empty(n, np.uint8),
        bytearray,
    ]
    return [rng.choice(kinds)(2 * rng.randrange(1, 5000) + 1) for _ in range(count)][::2]


def lies_askew(t: object) -> bool:
    """Whether a float32 tensor's memory begins elsewhere than torch's own does.

    A view counts by what it looks into: where it begins there does not change from run to run.
    """
    if not isinstance(t, Tensor) or t.dtype != torch.float32 or t.device.type != "cpu":
        return False
    return t.untyped_storage().data_ptr() % ALIGNED != 0


def _rounded(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`function`, two units in the last place away where an operand lies askew: what matrix-vector kernels may do."""

    def call(*args: Any, **kwargs: Any) -> Tensor:
        out = function(*args, **kwargs)
        return out * (1 + 2**-22) if any(map(lies_askew, (*args, *kwargs.values()))) else out

    return call


class Askew:
    """Files that are written map to other addresses, memory has holes, and products round by where their operands lie.

    In force from `begin` to `end`; `draw` begins the draws anew, so that a test alone gets what it gets among others.
    """

    def __init__(self, seed: str):
        self.seed, self.rng, self.held = seed, random.Random(seed), list[Any]()
        self.name = ""
        self.patch = pytest.MonkeyPatch()

    def draw(self, name: str) -> None:
        self.name = name
        self.rng = random.Random(f"{self.seed}/{name}")
        self.held = odd_allocations(self.rng)

    def words_for(self, file: Path) -> int:
        """How far a file's tensors are moved: drawn by the seed, the test and what they hold, so that equal contents
        stay equal files.
        """
        data = file.read_bytes()
        (size,) = struct.unpack("<Q", data[:8])
        return zlib.crc32(data[8 + size :], zlib.crc32(f"{self.seed}/{self.name}".encode())) % 8

    def begin(self) -> Askew:
        write = safetensors.torch.serialize_file

        def padded(tensors: Any, filename: Any, *args: Any, **kwargs: Any) -> None:
            write(tensors, filename, *args, **kwargs)
            pad_header(filename, self.words_for(Path(filename)))

        self.patch.setattr(safetensors.torch, "serialize_file", padded)
        products = [(torch.nn.functional, "linear"), (torch, "addmm"), (torch, "matmul"), (Tensor, "__matmul__")]
        for owner, name in products:
            self.patch.setattr(owner, name, _rounded(getattr(owner, name)))
        return self

    def end(self) -> None:
        self.patch.undo()
        self.held.clear()


def begin_in_child() -> None:
    """In a process that a test started: the same, until it ends, if the suite runs so."""
    if seed := os.environ.get(VARIABLE):
        askew = Askew(seed).begin()
        askew.draw(str(os.getpid()))
        askew.name = ""  # what two runs write is compared
