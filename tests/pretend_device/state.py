"""What the modes share: the tags, the device's generator, and which torch functions are being called."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tests.pretend_device.tags import Tags

CUDA = torch.device("cuda", 0)
PLAIN = frozenset({int, float, bool, str, slice, torch.dtype, torch.device, torch.Size, torch.layout})
"""Types of arguments that hold no tensor."""


@dataclass(slots=True)
class Call:
    """A torch function that Python called: the type of the device it was given or None, and all of its arguments.

    `makes`: it only makes tensors, which lie on the CPU unless it is told otherwise, whatever its arguments.
    """

    device: str | None
    arguments: Iterable[Any]
    makes: bool = False

    def generator(self) -> torch.Generator | None:
        """The one it was given: operations below are given another Python object of the same generator."""
        return next((g for g in self.arguments if isinstance(g, torch.Generator)), None)


NO_CALL = Call(None, ())


@dataclass
class State:
    """`tags`: storages on the device; `pinned`: CPU storages that are page-locked; `calls`: innermost last."""

    generator: Any
    tags: Tags = field(default_factory=Tags)
    pinned: Tags = field(default_factory=Tags)
    calls: list[Call] = field(default_factory=list)

    @property
    def call(self) -> Call:
        """The torch function that Python is in."""
        return self.calls[-1] if self.calls else NO_CALL

    def creates_on_device(self, tagged: bool) -> bool:
        """Whether an operation that takes a device makes its result on "cuda"; `tagged`: a tensor of its own is there.

        In the order of authority: the device that Python gave, the operation's own tensors, and (for what C++ makes on
        the way, with the options of the tensor it works on) the tensors of the function that Python called.
        """
        call = self.call
        if call.device is not None:
            return call.device == "cuda"
        return tagged or (not call.makes and any(self.tags.has(t) for t in tensors_in(*call.arguments)))

    def device_of(self, t: Tensor) -> torch.device:
        return CUDA if self.tags.has(t) else torch.device("cpu")


def asked(device: Any) -> str | None:
    """The type of a device as users write it (None, "cuda:0", 0, torch.device). RuntimeError for a second GPU."""
    if device is None:
        return None
    wanted = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
    if wanted.type == "cuda" and wanted.index not in (None, 0):
        raise RuntimeError(f"CUDA error: invalid device ordinal ({wanted}: one GPU is pretended)")
    return wanted.type


def tensors_in(*values: Any) -> list[Tensor]:
    """Tensors among arguments, in lists, tuples and dictionaries too."""
    out: list[Tensor] = []
    for v in values:
        if v is None or type(v) in PLAIN:
            continue
        if isinstance(v, Tensor):
            out.append(v)
        elif isinstance(v, list | tuple):
            out += tensors_in(*v)
        elif isinstance(v, dict):
            out += tensors_in(*v.values())
    return out
