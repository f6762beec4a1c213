"""Pictures in npz files, some at a time: `x` [n, ...], their labels `y` [n] and, if there, the labels' `names`; or
recordings, see `data.npz_audio`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from tunewright.contract.records import RowProblem
from tunewright.data.npz_audio import recordings
from tunewright.errors import DataError, TunewrightError
from tunewright.tasks._pictures import in_range

AT_ONCE = 1 << 20  # bytes; whole numbers become floats for a moment where they are scaled


def rows_of(path: Path) -> Iterator[tuple[int, Mapping[str, Any] | RowProblem]]:
    """A file's rows, numbered from 1. A file of pictures is read twice: the range of the pixels is that of all of them,
    so that a dark one is not taken for one of 0..1. DataError for what is no such file.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if "audio" in arrays and "x" not in arrays:
                with _member(arrays, "audio") as file:
                    shape, _, dtype = _read_header(file)
                    yield from recordings(arrays, file, shape, dtype, path)
                return
            y, names = (arrays[n] if n in arrays else None for n in ("y", "names"))
            shape = _header(arrays)[0] if "x" in arrays else ()
            if y is None or len(shape) < 2 or y.ndim != 1 or shape[0] != len(y):
                raise DataError(
                    "an npz file of pictures holds x [n, ...] and y [n]",
                    where=str(path),
                    remedy=f"it holds: {', '.join(arrays)}",
                )
            labels, called, span = y.tolist(), None if names is None else [str(n) for n in names], _span(arrays)
            i = 0
            for some in _chunks(arrays):
                for pixels in in_range(some, many=True, span=span):
                    yield i + 1, _picture(pixels, labels[i], called)
                    i += 1
    except RowProblem as problem:
        raise DataError(problem.reason, where=f"{path}: x", remedy=problem.remedy) from None
    except TunewrightError:
        raise
    except Exception as error:  # damaged archives raise whatever numpy, zipfile or zlib come upon
        raise DataError(
            f"not an npz file that can be read: {error}",
            where=str(path),
            remedy="save it with numpy.savez_compressed, without objects (pickles are never read)",
        ) from None


def _span(arrays: Any) -> tuple[float, float]:
    """The least and the largest pixel of all; NaN where there is one."""
    least, most = np.inf, -np.inf
    for some in _chunks(arrays):
        least, most = np.minimum(least, float(some.min())), np.maximum(most, float(some.max()))
    return float(least), float(most)


def _member(arrays: Any, name: str = "x") -> Any:
    return arrays.zip.open(f"{name}.npy" if f"{name}.npy" in arrays.zip.namelist() else name)


def _header(arrays: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    with _member(arrays) as f:
        return _read_header(f)


def _read_header(f: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether columns come first, and type."""
    read = npy.read_array_header_1_0 if npy.read_magic(f) == (1, 0) else npy.read_array_header_2_0
    shape, columns, dtype = read(f)
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    return shape, columns, dtype


def _chunks(arrays: Any) -> Iterator[NDArray[Any]]:
    """The pictures [k, ...], some at a time. ValueError where the file holds fewer than it says."""
    with _member(arrays) as f:
        shape, columns, dtype = _read_header(f)
        if columns:  # each picture lies all over the file
            yield arrays["x"]
            return
        size = math.prod(shape[1:]) * dtype.itemsize
        step = max(1, AT_ONCE // max(1, size))
        for start in range(0, shape[0], step):
            count = min(step, shape[0] - start)
            raw = f.read(count * size)
            if len(raw) < count * size:
                raise ValueError(f"x ends after {start + len(raw) // max(1, size)} of {shape[0]} pictures")
            yield np.frombuffer(raw, dtype).reshape(count, *shape[1:])
        if f.read(1):
            raise ValueError("x holds more than its shape says")


def _picture(pixels: Any, label: Any, names: Sequence[str] | None) -> Mapping[str, Any] | RowProblem:
    """A row of the file; with `names`, a label is one of them or the place of one."""
    if names is not None and not isinstance(label, str):
        if not (isinstance(label, int | float) and 0 <= label < len(names) and label == int(label)):
            reason = f"{label} is the place of none of the file's {len(names)} names"
            return RowProblem("label", reason, f"write 0 to {len(names) - 1} in y, or more names")
        label = names[int(label)]
    return {"image": pixels, "label": label}
