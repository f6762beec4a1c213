"""The output of a merge: shards laid out beforehand, written in any order beside the target, and renamed when whole.

A journal says which shards are done, so that a merge that was killed goes on from there when it is asked for again with
the same inputs. What stands under the final name is whole.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import struct
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from tunewright.errors import FolderError, RecipeError
from tunewright.files.cache import sync, write_json
from tunewright.machine import host, positioned
from tunewright.weights.source import SIZES, Entry

JOURNAL, LOCK = "merge.journal", "merge.lock"
FLUSH = 128 * 2**20  # bytes after which what was written is sent to the disk, while the merge goes on


@dataclass(frozen=True)
class Place:
    """Where a tensor goes: file, first byte, number of bytes."""

    file: str
    start: int
    size: int


def lay_out(
    entries: Mapping[str, Entry], shard_size: int, stem: str = "model"
) -> tuple[dict[str, Place], dict[str, bytes]]:
    """(places by tensor, headers by file): tensors in order, each file at most `shard_size` bytes unless one tensor
    is larger.
    """
    groups: list[list[str]] = [[]]
    filled = 0
    for n, e in entries.items():
        size = e.count * SIZES[e.dtype]
        if groups[-1] and filled + size > shard_size:
            groups.append([])
            filled = 0
        groups[-1].append(n)
        filled += size
    places, headers = {}, {}
    for k, names in enumerate(groups):
        file = f"{stem}.safetensors" if len(groups) == 1 else f"{stem}-{k + 1:05d}-of-{len(groups):05d}.safetensors"
        described: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        at = 0
        # larger types first, so that every tensor starts at a multiple of its type's size
        for n in sorted(names, key=lambda n: -SIZES[entries[n].dtype]):
            e = entries[n]
            size = e.count * SIZES[e.dtype]
            described[n] = {"dtype": e.dtype, "shape": list(e.shape), "data_offsets": [at, at + size]}
            at += size
        text = json.dumps(described, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        headers[file] = struct.pack("<Q", len(text)) + text
        for n in names:
            a, z = described[n]["data_offsets"]
            places[n] = Place(file, len(headers[file]) + a, z - a)
    return places, headers


class Staging:
    """The folder in which a result grows. `key` says what is merged: another key begins anew.

    FolderError where the target is not empty, another process is at it, or the disk is full or may not be written.
    """

    def __init__(self, target: Path, key: str, places: Mapping[str, Place], headers: Mapping[str, bytes]):
        self.target = target
        self.folder = target.parent / f".{target.name}.merging"
        self.places, self.headers = places, headers
        self._sizes = {
            f: max([p.start + p.size for p in places.values() if p.file == f], default=len(h))
            for f, h in headers.items()
        }
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise FolderError(
                "the output exists already", where=str(target), remedy="give another folder, or move this one away"
            )
        self._files: dict[str, int] = {}
        self._left = {f: sum(p.file == f for p in places.values()) for f in headers}
        self._lock, self._written, self._flushing = threading.Lock(), 0, False
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                self._own = host.Lock(self.folder / LOCK)
            except host.Held:
                raise FolderError(
                    "another merge is writing there", where=str(target), remedy="wait for it, or give another folder"
                ) from None
            self.done = self._begin(key)
            self._room()
        except OSError as e:
            raise self._failed(e) from e

    def _begin(self, key: str) -> set[str]:
        try:
            journal = json.loads((self.folder / JOURNAL).read_text(encoding="utf-8"))
            done = (
                {f for f in journal["done"] if f in self._sizes and (self.folder / f).stat().st_size == self._sizes[f]}
                if journal["key"] == key
                else set()
            )
        except (OSError, ValueError, KeyError):
            done = set()
        for path in self.folder.iterdir():
            if path.name not in done and path.name != LOCK:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        self._key = key
        write_json(self.folder / JOURNAL, {"key": key, "done": sorted(done)})
        return done

    def _room(self) -> None:
        needed = sum(s for f, s in self._sizes.items() if f not in self.done)
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            self.discard()
            raise FolderError(
                f"the disk has {free / 1e9:.1f} GB free, and the result takes {needed / 1e9:.1f} GB",
                where=str(self.target),
                remedy="free space",
            )

    def _failed(self, e: OSError) -> FolderError:
        full = e.errno in (errno.ENOSPC, errno.EDQUOT)
        return FolderError(
            "the disk is full" if full else f"cannot write it: {e.strerror or e}",
            where=str(self.target),
            remedy="free space, or give a folder that may be written",
        )

    def _descriptor(self, file: str) -> int:
        with self._lock:
            if file not in self._files:
                descriptor = self._files[file] = positioned.open_file(self.folder / file, write=True)
                positioned.reserve(descriptor, self._sizes[file])
                positioned.write_at(descriptor, self.headers[file], 0)
            return self._files[file]

    def write(self, name: str, start: int, data: NDArray[Any] | bytes) -> None:
        """Put bytes of a tensor, `start` bytes from its first."""
        place, view = self.places[name], (memoryview(data) if isinstance(data, bytes) else data.data).cast("B")
        try:
            descriptor = self._descriptor(place.file)
            positioned.write_at(descriptor, view, place.start + start)
        except OSError as e:
            raise self._failed(e) from e
        self._send(descriptor, len(view))

    def _send(self, descriptor: int, size: int) -> None:
        """Now and then, start sending what was written to the disk, beside the merge."""
        with self._lock:
            self._written += size
            if self._written < FLUSH or self._flushing:
                return
            self._written, self._flushing = 0, True

        def flush() -> None:
            try:
                positioned.flush(descriptor)
            except OSError:
                pass  # the last sync of the file tells
            self._flushing = False

        self._sender = threading.Thread(target=flush, daemon=True)
        self._sender.start()

    def finished(self, name: str) -> None:
        """A tensor is whole; when it was the last of its file, the file is noted as done."""
        file = self.places[name].file
        with self._lock:
            self._left[file] -= 1
            if self._left[file]:
                return
        try:
            positioned.flush(self._descriptor(file))
        except OSError as e:
            raise self._failed(e) from e
        with self._lock:
            self.done.add(file)
            write_json(self.folder / JOURNAL, {"key": self._key, "done": sorted(self.done)})

    def index(self) -> None:
        """The index of a result in several files."""
        if len(self.headers) > 1:
            total = sum(p.size for p in self.places.values())
            write_json(
                self.folder / "model.safetensors.index.json",
                {"metadata": {"total_size": total}, "weight_map": {n: p.file for n, p in self.places.items()}},
            )

    def publish(self) -> Path:
        """Give the result its name."""
        try:
            self.close()
            (self.folder / JOURNAL).unlink()
            (self.folder / LOCK).unlink()
            for path in sorted(self.folder.rglob("*")):
                if path.suffix != ".safetensors":  # those are on the disk already
                    sync(path)
            sync(self.folder)
            if self.target.exists():  # an empty folder, which Windows does not rename onto
                self.target.rmdir()
            os.rename(self.folder, self.target)
            sync(self.target.parent)
        except OSError as e:
            raise self._failed(e) from e
        return self.target

    def close(self) -> None:
        """Let go of files; what is there stays for the next try."""
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files.clear()
        self._own.release()

    def discard(self) -> None:
        """Take away what was written."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def size_of(text: str, where: str = "shard size") -> int:
    """Bytes of "5GB", "500MB", "2GiB". RecipeError for anything else, which stood at `where`."""
    import re

    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG])(i?)B\s*", text)
    if match is None or not float(match[1]):
        raise RecipeError(f"'{text}' is no size", where=where, remedy="write for example 5GB or 500MB")
    return math.ceil(float(match[1]) * (1024 if match[3] else 1000) ** " KMG".index(match[2]))
