"""What a method keeps between calls: saved with every checkpoint, on the model's device."""

from __future__ import annotations

import random
from typing import Any, overload

import torch
from torch import Tensor, nn

COPY = "copy."
"""What begins the names of buffers that follow parameters (a moving average of each): copy.<parameter>."""


class State(nn.Module):
    """What a method keeps between calls. Parameters train in a group of their own, buffers and `data` are saved.

    `data` holds JSON values only. `rng` is the method's own generator for draws about weights, saved with the rest and
    equal on all ranks. Buffers may change their shape. All tensors are on the model's device: what `setup` and
    `begin_task` made is moved there, and so is what `set_buffer` is given.

    A buffer "copy.<parameter>" holds a value for each entry of that parameter that trains, in its order, such as an
    average of its own past. When another choice of entries is drawn it is carried along: kept entries keep theirs,
    newcomers start from the parameter's present value, and what no longer trains is forgotten.
    """

    def __init__(self, **data: Any):
        super().__init__()
        self.data: dict[str, Any] = dict(data)
        self.rng = random.Random(0)
        self.device = torch.device("cpu")

    def set_buffer(self, name: str, tensor: Tensor) -> None:
        """Set the saved buffer `name`, whatever its shape was before; a parameter's name is one, with its dots."""
        self._buffers[_plain(name)] = tensor.to(self.device)

    def drop(self, name: str) -> None:
        """Keep no buffer of that name any more."""
        self._buffers.pop(_plain(name), None)

    def copies(self) -> dict[str, Tensor]:
        """The buffers "copy.<parameter>" by the parameter's name."""
        held = {n.replace("/", "."): t for n, t in self._buffers.items() if t is not None}
        return {n.removeprefix(COPY): t for n, t in held.items() if n.startswith(COPY)}

    def set_copies(self, copies: dict[str, Tensor]) -> None:
        """Hold these copies and no others."""
        for name in self.copies():
            del self._buffers[_plain(COPY + name)]
        for name, tensor in copies.items():
            self.set_buffer(COPY + name, tensor)

    def place(self, device: torch.device) -> None:
        """Move all tensors to the model's device; what is kept later goes there too."""
        self.device = device
        self.to(device)

    @overload
    def get(self, name: str, default: Tensor) -> Tensor: ...

    @overload
    def get(self, name: str, default: None = None) -> Tensor | None: ...

    def get(self, name: str, default: Tensor | None = None) -> Tensor | None:
        """The tensor that was kept under `name`, else the default: the way to begin with nothing."""
        tensor = self._buffers.get(_plain(name))
        return default if tensor is None else tensor


def _plain(name: str) -> str:
    """A buffer's name may hold no dot: torch reads it as a path."""
    return name.replace(".", "/")
