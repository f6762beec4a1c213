"""What a step keeps for its backward: bytes of all tensors that autograd saves, counted as they come and go."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass
class Kept:
    """`peak`: the most bytes that were kept at once. A storage that several operations keep counts once, the model's
    own parameters not at all. `now`: bytes kept at present; `times`: how often each storage is.
    """

    peak: int = 0
    now: int = 0
    times: dict[int, int] = field(default_factory=dict)

    def begins(self, storage: int, size: int) -> None:
        self.times[storage] = self.times.get(storage, 0) + 1
        if self.times[storage] == 1:
            self.now += size
            self.peak = max(self.peak, self.now)

    def ends(self, storage: int, size: int) -> None:
        self.times[storage] -= 1
        if not self.times[storage]:
            del self.times[storage]
            self.now -= size


class _Held:
    """A saved tensor, counted for as long as the graph holds it."""

    def __init__(self, tensor: Tensor, kept: Kept):
        storage = tensor.untyped_storage()
        self.tensor, self._kept, self._at = tensor, kept, (storage.data_ptr(), storage.nbytes())
        kept.begins(*self._at)

    def __del__(self) -> None:
        self._kept.ends(*self._at)


@contextmanager
def keeping(parameters: Iterable[Tensor]) -> Iterator[Kept]:
    """Count what is kept inside, without these tensors, in this thread."""
    own = {p.untyped_storage().data_ptr() for p in parameters}
    kept = Kept()

    def pack(tensor: Tensor) -> Any:
        return tensor if tensor.untyped_storage().data_ptr() in own else _Held(tensor, kept)

    def unpack(saved: Any) -> Tensor:
        found: Tensor = saved.tensor if isinstance(saved, _Held) else saved
        return found

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield kept
