"""Encoded rows on disk: flat numpy arrays that are memory-mapped, and one JSON line per row. No pickle.

A folder holds `tokens.npy` int32 and `weights.npy` fp32 (rows end to end, with offsets), `rows.jsonl` (id, label,
fields; with byte offsets), one `field-<name>.npy` for each field that holds arrays of equal shape, and `manifest.json`
with a hash of each file. It is written aside and renamed, so a folder that is there is whole.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from tunewright.contract.batch import Row
from tunewright.files.modes import share

MANIFEST = "manifest.json"


class StoredRows(Sequence[Row]):
    """Rows of a folder, decoded when asked for. `lengths` [n] are tokens per row (at least 1)."""

    def __init__(self, folder: Path, source: str):
        self.folder, self.source = folder, source
        self._arrays = {p.stem: np.load(p, mmap_mode="r", allow_pickle=False) for p in folder.glob("*.npy")}
        self._fields = {n.removeprefix("field-"): a for n, a in self._arrays.items() if n.startswith("field-")}
        with (folder / "rows.jsonl").open("rb") as f:
            self._lines = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) if os.fstat(f.fileno()).st_size else b""
        self.lengths = np.maximum(1, np.diff(self._arrays["token_offsets"]))

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
        fields |= {n: np.array(a[i]) for n, a in self._fields.items()}
        return Row(record["id"], self.source, ids, weights, record["label"], fields)

    def _cut(self, offsets: str, values: str, i: int) -> list[Any]:
        start, end = self._arrays[f"{offsets}_offsets"][i : i + 2]
        return self._arrays[values][int(start) : int(end)].tolist()


def write(rows: Iterable[Row], folder: Path, about: dict[str, Any]) -> str:
    """Write rows to `folder` (never half); `about` goes into the manifest. Returns the content's hash."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".writing-", dir=folder.parent))
    try:
        _write_files(list(rows), aside)
        hashes = {p.name: _hash(p) for p in sorted(aside.iterdir())}
        content = hashlib.sha256(json.dumps(hashes).encode()).hexdigest()
        (aside / MANIFEST).write_text(
            json.dumps({**about, "files": hashes, "hash": content}, indent=1), encoding="utf-8"
        )
        share(aside)
        if folder.exists():
            shutil.rmtree(folder)
        aside.rename(folder)
    except OSError:
        if not is_whole(folder):  # another process may have written the same rows meanwhile
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return str(manifest(folder)["hash"])


def manifest(folder: Path) -> dict[str, Any]:
    """What was written about the rows."""
    return dict(json.loads((folder / MANIFEST).read_text(encoding="utf-8")))


def is_whole(folder: Path) -> bool:
    """Whether the folder is there and every file has its hash."""
    try:
        return all(_hash(folder / name) == value for name, value in manifest(folder)["files"].items())
    except (OSError, ValueError, KeyError):
        return False


def _write_files(rows: list[Row], folder: Path) -> None:
    def save(name: str, values: Any, dtype: Any) -> None:
        np.save(folder / f"{name}.npy", np.asarray(values, dtype=dtype), allow_pickle=False)

    save("tokens", np.concatenate([np.asarray(r.input_ids, np.int32) for r in rows]) if rows else [], np.int32)
    save("weights", np.concatenate([np.asarray(r.weights, np.float32) for r in rows]) if rows else [], np.float32)
    save("token_offsets", np.cumsum([0] + [len(r.input_ids) for r in rows]), np.int64)
    save("weight_offsets", np.cumsum([0] + [len(r.weights) for r in rows]), np.int64)
    arrays = [n for n, v in rows[0].fields.items() if isinstance(v, np.ndarray)] if rows else []
    for name in arrays:
        np.save(folder / f"field-{name}.npy", np.stack([r.fields[name] for r in rows]), allow_pickle=False)
    ends = [0]
    with (folder / "rows.jsonl").open("wb") as f:
        for row in rows:
            f.write(json.dumps(_line(row, arrays), ensure_ascii=False).encode() + b"\n")
            ends.append(f.tell())
    save("line_offsets", ends, np.int64)


def _line(row: Row, arrays: Sequence[str]) -> dict[str, Any]:
    fields = {k: v for k, v in row.fields.items() if k not in arrays}
    line: dict[str, Any] = {"id": row.id, "label": row.label, "fields": fields}
    prompt = fields.get("prompt_ids")
    if prompt is not None and list(row.input_ids[: len(prompt)]) == list(prompt):
        line["prompt_length"] = len(prompt)
        del fields["prompt_ids"]
    return line


def _hash(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
