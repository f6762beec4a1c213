"""Encoded rows on disk: flat numpy arrays that are memory-mapped, and one JSON line per row. No pickle.

A folder holds `tokens.npy` int32 and `weights.npy` fp32 (rows end to end, with offsets), `rows.jsonl` (id, label,
fields; with byte offsets), one `field-<name>.npy` for each field that holds arrays of equal shape (vectors: of any
length, end to end, with offsets in `ends-<name>.npy`), `facts.bin` (what was seen of each record, see `data.facts`) and
`manifest.json` with a hash of each file. Rows are written as they come, aside, and the folder is renamed at the end:
one that is there is whole.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, overload

import numpy as np
from filelock import FileLock
from numpy.lib import format as npy

from tunewright.contract.batch import Row
from tunewright.files.modes import share

MANIFEST, FACTS = "manifest.json", "facts.bin"
_TEXT = json.JSONEncoder(ensure_ascii=False).encode


class StoredRows(Sequence[Row]):
    """Rows of a folder, decoded when asked for. `lengths` [n] are tokens per row (at least 1)."""

    def __init__(self, folder: Path, source: str):
        self.folder, self.source = folder, source
        self._arrays = {p.stem: np.load(p, mmap_mode="r", allow_pickle=False) for p in folder.glob("*.npy")}
        self._fields = {n.removeprefix("field-"): a for n, a in self._arrays.items() if n.startswith("field-")}
        self._ragged = {n.removeprefix("ends-"): a for n, a in self._arrays.items() if n.startswith("ends-")}
        with (folder / "rows.jsonl").open("rb") as f:
            self._lines = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) if os.fstat(f.fileno()).st_size else b""
        ends = self._arrays["token_offsets"]
        self.lengths = np.empty(len(ends) - 1, np.int32)
        np.subtract(ends[1:], ends[:-1], out=self.lengths, casting="unsafe")
        self.lengths += self._fields.get("size", np.int32(0))
        np.maximum(self.lengths, 1, out=self.lengths)

    def __len__(self) -> int:
        return len(self._arrays["line_offsets"]) - 1

    @overload
    def __getitem__(self, i: int) -> Row: ...
    @overload
    def __getitem__(self, i: slice) -> list[Row]: ...
    def __getitem__(self, i: int | slice) -> Row | list[Row]:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        if not -len(self) <= i < len(self):
            raise IndexError(i)
        i %= len(self)
        ids, weights = self._cut("token", "tokens", i), self._cut("weight", "weights", i)
        start, end = self._arrays["line_offsets"][i : i + 2]
        record = json.loads(self._lines[int(start) : int(end)])
        fields = record["fields"]
        if "prompt_length" in record:
            fields["prompt_ids"] = ids[: record["prompt_length"]]
        fields |= {n: np.array(a[i]) for n, a in self._fields.items() if n not in self._ragged}
        for name, at in self._ragged.items():  # long ones stay on disk until they are read
            fields[name] = self._fields[name][int(at[i]) : int(at[i + 1])]
        return Row(record["id"], self.source, ids, weights, record["label"], fields)

    def _cut(self, offsets: str, values: str, i: int) -> list[Any]:
        start, end = self._arrays[f"{offsets}_offsets"][i : i + 2]
        return self._arrays[values][int(start) : int(end)].tolist()


class Writer:
    """Writes rows to `folder` as they come (never half); `finish` names what is known of them.

    Used as a context: without `finish`, nothing is left.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        self._aside = Path(tempfile.mkdtemp(prefix=".writing-", dir=folder.parent))
        flat = {"tokens": np.int32, "weights": np.float32}
        offsets = dict.fromkeys(("token_offsets", "weight_offsets", "line_offsets"), np.int64)
        self._columns = {n: _Column(self._aside / f"{n}.npy", np.dtype(t)) for n, t in {**flat, **offsets}.items()}
        for name in offsets:
            self._columns[name].append(np.zeros(1, np.int64))
        self._ends = dict.fromkeys(offsets, 0)
        self._lines, self._facts = (self._aside / "rows.jsonl").open("wb"), (self._aside / FACTS).open("wb")
        self._arrays: list[str] | None = None

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: Any, trace: TracebackType | None) -> None:
        self._close()
        shutil.rmtree(self._aside, ignore_errors=True)

    def extend(self, rows: Sequence[Row]) -> None:
        """Write rows, in order."""
        if not rows:
            return
        if self._arrays is None:
            self._arrays = [n for n, v in rows[0].fields.items() if isinstance(v, np.ndarray)]
        lines = [_TEXT(_line(row, self._arrays)).encode() + b"\n" for row in rows]
        self._lines.write(b"".join(lines))
        self._columns["tokens"].append(np.fromiter(chain.from_iterable(r.input_ids for r in rows), np.int32))
        self._columns["weights"].append(np.fromiter(chain.from_iterable(r.weights for r in rows), np.float32))
        self._offsets("token_offsets", [len(r.input_ids) for r in rows])
        self._offsets("weight_offsets", [len(r.weights) for r in rows])
        self._offsets("line_offsets", [len(line) for line in lines])
        for name in self._arrays:
            given = [r.fields[name] for r in rows]
            if given[0].ndim == 1:
                self._ends_of(name, given)
            values = np.stack(given) if given[0].ndim != 1 else np.concatenate(given)
            key = f"field-{name}"
            if key not in self._columns:
                self._columns[key] = _Column(self._aside / f"{key}.npy", values.dtype, values.shape[1:])
            self._columns[key].append(values)

    def note(self, facts: np.ndarray) -> None:
        """Write what was seen of records."""
        self._facts.write(facts.tobytes())

    def finish(self, about: dict[str, Any]) -> None:
        """Put the folder in its place. `about` goes into the manifest."""
        self._close()
        try:
            hashes = {p.name: _hash(p) for p in sorted(self._aside.iterdir()) if p.name != FACTS}
            content = hashlib.sha256(json.dumps(hashes).encode()).hexdigest()
            written = {**about, "files": hashes, "facts": _hash(self._aside / FACTS), "hash": content}
            (self._aside / MANIFEST).write_text(json.dumps(written, indent=1), encoding="utf-8")
            share(self._aside)
            self._stand()
        except OSError:
            if not is_whole(self.folder):  # another process may have written the same rows meanwhile
                raise

    def _stand(self) -> None:
        """Rename what was written to its place, unless rows stand there that another process has written meanwhile and
        may be reading: the rename itself tells, since it does not go over a folder that holds something. Only rows that
        are not whole are moved away, by one process at a time.
        """
        with suppress(OSError):
            self._aside.rename(self.folder)
            return
        if is_whole(self.folder):
            return
        with FileLock(self.folder.with_name(f".{self.folder.name}.lock")) as lock:
            if not is_whole(self.folder):
                with tempfile.TemporaryDirectory(prefix=".broken-", dir=self.folder.parent) as broken:
                    with suppress(FileNotFoundError):
                        self.folder.rename(Path(broken) / self.folder.name)
                    self._aside.rename(self.folder)
            Path(lock.lock_file).unlink(missing_ok=True)

    def _ends_of(self, name: str, given: Sequence[np.ndarray]) -> None:
        """Note where vectors end, which are written one behind the other."""
        key = f"ends-{name}"
        if key not in self._columns:
            self._columns[key], self._ends[key] = _Column(self._aside / f"{key}.npy", np.dtype(np.int64)), 0
            self._columns[key].append(np.zeros(1, np.int64))
        self._offsets(key, [len(values) for values in given])

    def _offsets(self, name: str, lengths: Sequence[int]) -> None:
        ends = self._ends[name] + np.cumsum(lengths, dtype=np.int64)
        self._ends[name] = int(ends[-1])
        self._columns[name].append(ends)

    def _close(self) -> None:
        for column in self._columns.values():
            column.close()
        self._lines.close()
        self._facts.close()


class _Column:
    """An npy file that grows: its header is written again at the end, in the room that numpy leaves for it."""

    def __init__(self, path: Path, dtype: np.dtype[Any], shape: tuple[int, ...] = ()):
        self.dtype, self.shape, self.count, self._file = dtype, shape, 0, path.open("wb")
        self._header()
        self._start = self._file.tell()

    def _header(self) -> None:
        about = {"descr": npy.dtype_to_descr(self.dtype), "fortran_order": False, "shape": (self.count, *self.shape)}
        npy.write_array_header_1_0(self._file, about)

    def append(self, values: np.ndarray) -> None:
        self._file.write(np.ascontiguousarray(values, self.dtype).data if values.size else b"")
        self.count += len(values)

    def close(self) -> None:
        if self._file.closed:
            return
        self._file.seek(0)
        self._header()
        assert self._file.tell() == self._start
        self._file.close()


def manifest(folder: Path) -> dict[str, Any]:
    """What was written about the rows."""
    return dict(json.loads((folder / MANIFEST).read_text(encoding="utf-8")))


def is_whole(folder: Path) -> bool:
    """Whether the folder is there and every file has its hash."""
    try:
        written = manifest(folder)
        files = {**written["files"], FACTS: written["facts"]}
        return all(_hash(folder / name) == value for name, value in files.items())
    except (OSError, ValueError, KeyError):
        return False


def _line(row: Row, arrays: Sequence[str]) -> dict[str, Any]:
    fields = {k: v for k, v in row.fields.items() if k not in arrays} if arrays else dict(row.fields)
    line: dict[str, Any] = {"id": row.id, "label": row.label, "fields": fields}
    prompt = fields.get("prompt_ids")
    if prompt is not None and list(row.input_ids[: len(prompt)]) == list(prompt):
        line["prompt_length"] = len(prompt)
        del fields["prompt_ids"]
    return line


def _hash(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
