"""Recordings in npz files, one at a time: `audio`, all samples end to end, and `offsets` [n + 1], where each begins and
the last one ends; `sampling_rate`, one number or [n].

Every other array of n values is a column; of a column `speaker` of whole numbers, `speaker_names` are what they stand
for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.contract.records import RowProblem
from tunewright.errors import DataError

_OWN = ("audio", "offsets", "sampling_rate")


def recordings(
    arrays: Any, file: Any, shape: tuple[int, ...], dtype: np.dtype[Any], path: Path
) -> Iterator[tuple[int, Mapping[str, Any] | RowProblem]]:
    """The rows, numbered from 1: `audio` with its rate, and the columns. `arrays` is the open npz file, `file` its
    samples behind their header. DataError where offsets, rate or columns do not fit.
    """
    ends = _offsets(arrays, shape, path)
    rates = _rates(arrays, len(ends) - 1, path)
    columns = _columns(arrays, len(ends) - 1, path)
    for i in range(len(ends) - 1):
        size = int(ends[i + 1] - ends[i]) * dtype.itemsize
        raw = file.read(size)
        if len(raw) < size:
            raise ValueError(f"audio ends in recording {i + 1} of {len(ends) - 1}")
        audio = {"array": np.frombuffer(raw, dtype), "sampling_rate": rates[i]}
        values = {name: _value(name, column[i], names) for name, (column, names) in columns.items()}
        wrong = next((v for v in values.values() if isinstance(v, RowProblem)), None)
        yield i + 1, wrong if wrong is not None else {"audio": audio, **values}


def _offsets(arrays: Any, shape: tuple[int, ...], path: Path) -> NDArray[np.int64]:
    given = arrays["offsets"] if "offsets" in arrays else np.zeros(0)
    whole = given.dtype.kind in "iu" and given.ndim == 1 and len(given) > 1 and len(shape) == 1
    ends: NDArray[np.int64] = given.astype(np.int64)
    if not whole or ends[0] != 0 or (np.diff(ends) < 0).any() or ends[-1] != shape[0]:
        raise DataError(
            "an npz file of recordings holds audio [samples] and offsets [n + 1], from 0 to the number of samples",
            where=str(path),
            remedy=f"it holds: {', '.join(arrays)}",
        )
    return ends


def _rates(arrays: Any, n: int, path: Path) -> list[Any]:
    if "sampling_rate" not in arrays:
        raise DataError(
            "the recordings' rate is not said",
            where=str(path),
            remedy="save it beside them: numpy.savez_compressed(..., sampling_rate=16000)",
        )
    given = np.asarray(arrays["sampling_rate"])
    if given.ndim and given.shape != (n,):
        raise DataError(
            f"sampling_rate has the shape {given.shape}", where=str(path), remedy=f"write one number, or {n} of them"
        )
    rates: list[Any] = np.broadcast_to(given, (n,)).tolist()
    return rates


def _columns(arrays: Any, n: int, path: Path) -> dict[str, tuple[list[Any], list[str] | None]]:
    """Name -> (values, what whole numbers stand for)."""
    found: dict[str, tuple[list[Any], list[str] | None]] = {}
    for name in arrays:
        if name in _OWN or name.endswith("_names"):
            continue
        values = arrays[name]
        if values.shape != (n,):
            raise DataError(
                f"{name} has the shape {values.shape}, and there are {n} recordings",
                where=str(path),
                remedy=f"write {n} values, or take it out",
            )
        names = [str(v) for v in arrays[f"{name}_names"]] if f"{name}_names" in arrays else None
        found[name] = values.tolist(), names
    return found


def _value(name: str, value: Any, names: list[str] | None) -> Any:
    if names is None or isinstance(value, str):
        return value
    if not (isinstance(value, int | float) and value == int(value) and 0 <= value < len(names)):
        reason = f"{value} is the place of none of the file's {len(names)} {name}_names"
        return RowProblem(name, reason, f"write 0 to {len(names) - 1}, or more names")
    return names[int(value)]
