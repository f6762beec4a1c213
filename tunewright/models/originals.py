"""The base's first values of what changes: kept in memory, or read back from the base's own safetensors file.

A whole tensor that trains would need its first values a second time in memory. Where the file that it was loaded from
gives the same bits, that file is the copy: it is held open, so that a cache that is emptied meanwhile takes nothing
away.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from tunewright.errors import ModelError
from tunewright.files.hashing import Stored, prefix_of, read_header, weight_files
from tunewright.machine.positioned import read_into
from tunewright.models.agreement import same_bits

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


@dataclass
class Original:
    """The base's values of one tensor: `indices` None means the whole tensor, else flat sorted places."""

    values: Tensor
    indices: Tensor | None = None

    def restored(self, current: Tensor) -> Tensor:
        """The base's tensor, given the current one."""
        if self.indices is None:
            return self.values
        out = current.detach().clone()
        out.view(-1)[self.indices] = self.values
        return out

    def add(self, current: Tensor, indices: Tensor) -> None:
        """Remember the present values at `indices` that are not remembered yet."""
        if self.indices is None:
            return
        new = indices[~torch.isin(indices, self.indices, assume_unique=True)]
        places = torch.cat([self.indices, new])
        values = torch.cat([self.values, current.detach().reshape(-1)[new]])
        order = torch.argsort(places)
        self.indices, self.values = places[order], values[order]


class InFile(Original):
    """A whole tensor's values, read from its file each time they are asked for."""

    def __init__(self, file: IO[bytes], stored: Stored, dtype: torch.dtype, device: torch.device):
        self.file, self.stored, self.dtype, self.device = file, stored, dtype, device
        self.indices = None
        self.written = os.fstat(file.fileno()).st_mtime_ns

    @property
    def values(self) -> Tensor:  # type: ignore[override]
        """The tensor, in the type and on the device that it trains in.

        ModelError when the file was written to since.
        """
        if os.fstat(self.file.fileno()).st_mtime_ns != self.written:
            raise ModelError(
                "the base's file was changed while it was in use",
                where=str(self.stored.file),
                remedy="put the file back and resume the run",
            )
        size = self.stored.stop - self.stored.start
        data = torch.empty(size, dtype=torch.uint8)  # torch's memory is aligned (see `aligned`), a bytearray's is not
        if size and read_into(self.file.fileno(), data.numpy(), self.stored.start) < size:
            raise ModelError(
                "the base's file is cut off", where=str(self.stored.file), remedy="put the file back and resume the run"
            )
        return data.view(DTYPES[self.stored.dtype]).view(self.stored.shape).to(self.device, self.dtype)


class Files:
    """The tensors of a model's folder by name; nothing is read before it is asked for."""

    def __init__(self, folder: Path):
        self.stored: Mapping[str, Stored] = {
            prefix_of(f) + t.name: t for f in weight_files(folder) for t in read_header(f) if t.dtype in DTYPES
        }
        self._open: dict[Path, Any] = {}

    def found(self, name: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> InFile | None:
        """The tensor of this name and shape; None where the files have none, or cannot be read in parts here."""
        stored = self.stored.get(name)
        if stored is None or stored.shape != shape or not hasattr(os, "preadv"):
            return None
        if stored.file not in self._open:
            self._open[stored.file] = stored.file.open("rb", buffering=0)
        return InFile(self._open[stored.file], stored, dtype, device)

    def original(self, name: str, present: Tensor) -> Original:
        """The present values as an `Original`: in the file where it holds the same bits under the same name, else a
        copy.
        """
        candidate = self.found(name, tuple(present.shape), present.dtype, present.device)
        if candidate is not None and same_bits(candidate.values, present):
            return candidate
        return Original(present.detach().clone())
