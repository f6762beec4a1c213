"""Tensors into a safetensors file whose bytes depend on the tensors and the metadata alone.

The library writes metadata in an order that changes from call to call, a file that its owner alone may read, and says
what the disk refuses in a class of its own.
"""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tunewright.files.modes import share

if TYPE_CHECKING:
    from torch import Tensor


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors by name, contiguous and with no storage in common. OSError where the disk does not take them."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(dict(tensors), path, metadata=dict(metadata) if metadata else None)
    except SafetensorError as e:
        raise (refused_by_the_disk(e, path) or e) from e
    if metadata and len(metadata) > 1:
        _sort_metadata(path)
    share(path)


def refused_by_the_disk(e: Exception, path: Path) -> OSError | None:
    """The system's error that a library tells in words, "(os error 28)"; None where it tells of none."""
    said = re.search(r"\(os error (\d+)\)", str(e))
    return OSError(int(said[1]), os.strerror(int(said[1])), str(path)) if said else None


def _sort_metadata(path: Path) -> None:
    """Put the metadata into the order of its keys, in place: the header keeps its length."""
    with path.open("r+b") as f:
        (length,) = struct.unpack("<Q", f.read(8))
        header = json.loads(f.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) > length:
            raise ValueError(f"{path}: the header would outgrow its place")
        f.seek(8)
        f.write(text.ljust(length))
