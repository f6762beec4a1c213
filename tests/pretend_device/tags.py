"""Which memory is on the pretended device: marked by storage, since every view of one storage is on one device."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef


class Tags:
    """A set of storages that keeps none of them alive."""

    def __init__(self) -> None:
        self._storages: dict[int, StorageWeakRef] = {}
        self._swept_at = 1024

    def has(self, t: Tensor) -> bool:
        return key(t) in self._storages

    def set(self, t: Tensor, on: bool) -> None:
        """Mark a tensor's storage, or take the mark away."""
        if not on:
            self._storages.pop(key(t), None)
            return
        if len(self._storages) >= self._swept_at:
            self._sweep()
        # the weak reference keeps the address from being given to another storage
        self._storages.setdefault(key(t), StorageWeakRef(t.untyped_storage()))

    def _sweep(self) -> None:
        self._storages = {k: ref for k, ref in self._storages.items() if not ref.expired()}
        self._swept_at = max(1024, 2 * len(self._storages))


def key(t: Tensor) -> int:
    """The identity of a tensor's storage. NotImplementedError for what has none (sparse tensors)."""
    number: int = torch._C._storage_id(t)  # type: ignore[attr-defined]
    return number
