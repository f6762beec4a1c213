"""Activation offload: what a step keeps for its backward pass lies in the host's memory until it is asked for.

Tensors that autograd saves on a GPU are copied to the host as they are saved, into pinned memory, and back as the
backward pass reads them, so that every number is the same. What is small stays, and so do the parameters, which are on
the device anyway. A tensor that several operations save is copied once.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

SMALLEST = 1024
"""Entries from which on a tensor is worth its way there and back (as TRL and torchtune have it)."""
WHERE = "train.activation_offloading"
NOTHING_TO_DO = f"{WHERE} does nothing here: on {{device}} activations are in the host's memory already"


@dataclass
class Moved:
    """A saved tensor's copy on the host, of which one goes back at a time."""

    copy: Tensor
    device: torch.device
    back: weakref.ref[Tensor] | None = None

    def again(self) -> Tensor:
        """The tensor on its device; the same one as long as somebody holds it."""
        found = self.back() if self.back is not None else None
        if found is None:
            found = self.copy.to(self.device, non_blocking=self.copy.is_pinned())
            self.back = weakref.ref(found)
        return found


def _to_host(tensor: Tensor) -> Tensor:
    if not torch.cuda.is_available():
        return tensor.to("cpu", copy=True)
    pinned = torch.empty_like(tensor, device="cpu", pin_memory=True)
    return pinned.copy_(tensor)


@contextmanager
def offloading(parameters: Iterable[Tensor], on: bool, smallest: int = SMALLEST) -> Iterator[None]:
    """Inside, if `on`, saved tensors of at least `smallest` entries that are on a GPU and share no memory with
    `parameters` are kept on the host. Graphs that are made inside may go backward outside.
    """
    if not on:
        yield
        return
    own = {p.untyped_storage().data_ptr() for p in parameters}
    known: weakref.WeakValueDictionary[tuple[Any, ...], Moved] = weakref.WeakValueDictionary()

    def pack(tensor: Tensor) -> Tensor | Moved:
        storage = tensor.untyped_storage()
        if not tensor.is_cuda or tensor.numel() < smallest or storage.data_ptr() in own:
            return tensor
        # never by address: memory that was left holds another tensor a moment later
        key = (StorageWeakRef(storage), tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype)
        moved = known.get(key)
        if moved is None:
            moved = known[key] = Moved(_to_host(tensor.detach()), tensor.device)
        return moved

    def unpack(saved: Tensor | Moved) -> Tensor:
        return saved.again() if isinstance(saved, Moved) else saved

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield
