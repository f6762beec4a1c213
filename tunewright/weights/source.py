"""Models as readers of tensors: transformers folders, and adapters or saved changes put on a base tensor by tensor.

Nothing is read but headers until a tensor is asked for, and then a range of its values goes straight into the caller's
buffer. Inputs are never written to.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.errors import ModelError
from tunewright.files.hashing import AGAIN, Stored, hash_weights, read_header, weight_files
from tunewright.files.stamp import stamp
from tunewright.loading.locate import licence_of, read_config
from tunewright.loading.quantised import refuse_quantised
from tunewright.machine import positioned

FLOATS = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32, "F64": np.float64}
SIZES = {
    "BF16": 2,
    "F16": 2,
    "F32": 4,
    "F64": 8,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U64": 8,
    "U32": 4,
    "U16": 2,
    "U8": 1,
    "BOOL": 1,
}
Buffer = NDArray[Any]


@dataclass(frozen=True)
class Entry:
    """A tensor as a source gives it: safetensors' name of its type, and its shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def floats(self) -> bool:
        return self.dtype in FLOATS


class Source:
    """A model folder. `ref` is what the user wrote, `origin` says where it came from; `table`: how its rows are read,
    where that stands in no file of the folder (`weights.reading`).
    """

    table: dict[str, Any] | None = None

    def __init__(self, folder: Path, ref: str, origin: str, licence: str | None):
        self.folder, self.ref, self.origin, self.licence = folder, ref, origin, licence
        self.config = read_config(folder)
        refuse_quantised(self.config, folder, whole=())
        self._stored: dict[str, Stored] = {}
        self._files: dict[Path, int] = {}
        for file in weight_files(folder):
            for t in read_header(file):
                self._add(t)
        self.entries = {n: Entry(t.dtype, t.shape) for n, t in self._stored.items()}
        if not self.entries:
            raise ModelError("there is no tensor in its files", where=str(folder), remedy=AGAIN)

    def _add(self, t: Stored) -> None:
        if t.name in self._stored:
            raise ModelError(f"'{t.name}' is in two of its files", where=str(t.file), remedy=AGAIN)
        if t.dtype not in SIZES:
            raise ModelError(
                f"'{t.name}' is stored as {t.dtype}, which is not read here",
                where=str(t.file),
                remedy="save the model as bfloat16 or float32",
            )
        self._stored[t.name] = t

    def stored_type(self, name: str) -> str:
        """The type that a tensor has in the model's own files."""
        return self.entries[name].dtype

    def touches(self, name: str) -> bool:
        """Whether a tensor may differ from the base's, where this is a change of a base."""
        return True

    def hash(self) -> str:
        """The sha256 of the weights, kept in the cache by the files' time and size."""
        return hash_weights(self.folder)

    def stamp(self) -> list[Any]:
        """What tells that the files are still the same, without reading them."""
        return [[str(f.resolve()), *stamp(f)] for f in weight_files(self.folder)]

    def _descriptor(self, file: Path) -> int:
        if file not in self._files:
            self._files[file] = positioned.open_file(file)
        return self._files[file]

    def open(self) -> None:
        """Open all files, before threads read from them."""
        for t in self._stored.values():
            self._descriptor(t.file)

    def _read(self, t: Stored, start: int, out: memoryview) -> None:
        if positioned.read_into(self._descriptor(t.file), out, t.start + start) < len(out):
            raise ModelError(f"the file ends inside '{t.name}'", where=str(t.file), remedy=AGAIN)

    def fill(self, name: str, start: int, out: Buffer) -> None:
        """Put the flat values from `start` on into `out`: float32, or uint16 for the bits of a bfloat16 tensor."""
        t = self._stored[name]
        kind = np.dtype(FLOATS[t.dtype])
        if kind == out.dtype:
            self._read(t, start * kind.itemsize, out.data.cast("B"))
            return
        raw = np.empty(len(out), kind)
        self._read(t, start * kind.itemsize, raw.data.cast("B"))
        if t.dtype == "BF16":
            np.left_shift(raw, 16, out=out.view(np.uint32), dtype=np.uint32, casting="unsafe")
        else:
            out[:] = raw

    def raw(self, name: str) -> bytes:
        """A tensor's bytes as stored."""
        t = self._stored[name]
        out = bytearray(t.stop - t.start)
        if out:
            self._read(t, 0, memoryview(out))
        return bytes(out)

    def ahead(self, name: str) -> None:
        """Ask the system to fetch a tensor's bytes from the disk."""
        if (t := self._stored.get(name)) is not None:
            positioned.will_need(self._descriptor(t.file), t.start, t.stop - t.start)

    def whole(self, name: str) -> NDArray[np.float32]:
        """One tensor in float32, in its shape."""
        entry = self.entries[name]
        out = np.empty(entry.count, np.float32)
        self.fill(name, 0, out)
        return out.reshape(entry.shape)

    def close(self) -> None:
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files.clear()


Change = Callable[[int, NDArray[np.float32]], None]
"""Adds a change to a range of a tensor's flat float32 values, given where the range starts."""


class Tuned(Source):
    """A base with a change on some of its tensors, formed range by range: the whole model is never built."""

    def __init__(self, base: Source, ref: str, folder: Path, changes: Mapping[str, Change], digest: Callable[[], str]):
        self.base, self.changes, self.ref, self.folder, self._digest = base, changes, ref, folder, digest
        self.origin, self.config, self.licence = (
            f"{folder} on {base.origin}",
            base.config,
            licence_of(folder) or base.licence,
        )
        self.entries = {n: Entry("F32", e.shape) if n in changes else e for n, e in base.entries.items()}

    def stored_type(self, name: str) -> str:
        return self.base.stored_type(name)

    def touches(self, name: str) -> bool:
        return name in self.changes

    def hash(self) -> str:
        return self._digest()

    def stamp(self) -> list[Any]:
        return [
            *self.base.stamp(),
            *([str(f), *stamp(f)] for f in sorted(self.folder.glob("*.safetensors"))),
        ]

    def fill(self, name: str, start: int, out: Buffer) -> None:
        self.base.fill(name, start, out)
        if (change := self.changes.get(name)) is not None:
            change(start, out)

    def raw(self, name: str) -> bytes:
        return self.base.raw(name)

    def open(self) -> None:
        self.base.open()

    def ahead(self, name: str) -> None:
        self.base.ahead(name)

    def close(self) -> None:
        self.base.close()
