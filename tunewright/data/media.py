"""Folders of pictures or recordings: a folder a class, or a metadata file that names them, as `datasets` reads them.

`pets/cat/1.png` has the label cat; `pets/train/cat/1.png` is of the split train. A `metadata.csv`, `.tsv`, `.jsonl` or
`.parquet` with a column `file_name` gives the rows instead, and then folders are no labels. Links are followed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from tunewright.data import files, mask_folders, splits, yolo_folders
from tunewright.data.mask_folders import Masked
from tunewright.data.raw import Bad
from tunewright.data.yolo_folders import Boxed
from tunewright.errors import DataError
from tunewright.files.stamp import stamp

Found = tuple[str, str, Mapping[str, Any] | Bad, str]
"""A row's id, where it is, what it holds, and the folder that its paths start from."""
METADATA = frozenset({"metadata.csv", "metadata.tsv", "metadata.jsonl", "metadata.parquet"})
_PAGES = ("txt", "md")
"""Kinds of text that lie beside pictures and say something about them: a licence, a list of classes."""
_CALLED = {"image": "picture", "audio": "recording"}


def visible(folder: Path, inside: str = "", seen: frozenset[str] = frozenset()) -> Iterator[tuple[str, bool]]:
    """(path from the folder, whether it is a folder) of all that is not hidden, in order. Links are followed, but not
    in a circle.
    """
    real = os.path.realpath(folder / inside)
    if real in seen:
        return
    with os.scandir(folder / inside) as entries:
        for entry in sorted(entries, key=lambda e: e.name):
            if entry.name.startswith((".", "__")):  # also __MACOSX and __pycache__
                continue
            path = f"{inside}/{entry.name}" if inside else entry.name
            if entry.is_dir():
                yield path, True
                yield from visible(folder, path, seen | {real})
            elif entry.is_file() or entry.is_symlink():  # a link to nothing is a row that cannot be read
                yield path, False


@dataclass(frozen=True)
class Media:
    """A folder's pictures or recordings: `column` is "image" or "audio"; `starts` are the folders inside it whose files
    are read, with the range of those files; `depth` is where the classes' folders are, from a start (0: no labels);
    `metadata` are files that give the rows instead; `remarks` say what is not read and could be missed.
    """

    folder: Path
    column: str
    starts: tuple[tuple[str, int, int], ...]
    depth: int = 0
    metadata: tuple[str, ...] = ()
    count: int = 0
    remarks: tuple[str, ...] = ()

    def rows(self, name: str, remarks: list[str]) -> Iterator[Found]:
        """The rows, in the order of their paths."""
        remarks += self.remarks
        yield from self._told(name, remarks) if self.metadata else self._listed(name)

    def _listed(self, name: str) -> Iterator[Found]:
        for path in self.paths():
            row = {self.column: path}
            if self.depth:
                row["label"] = PurePosixPath(path).parent.name
            yield path, f"{name.rstrip('/')}/{path}", row, str(self.folder)

    def paths(self) -> Iterator[str]:
        """The files that are read, from the folder."""
        wanted = _endings()[self.column]
        for start, first, end in self.starts:
            at = (p for p, is_folder in visible(self.folder, start) if not is_folder and _ending(p) in wanted)
            yield from (p for i, p in enumerate(at) if first <= i < end)

    def _told(self, name: str, remarks: list[str]) -> Iterator[Found]:
        named = 0
        for path in self.metadata:
            at = self.folder / path
            for number, row in files.read(at):
                made = row if isinstance(row, Bad) else self._pointed(row)
                named += not isinstance(made, Bad)
                yield f"{path}:{number}", f"{name.rstrip('/')}/{path}:{number}", made, str(at.parent)
        if (left := self.count - named) > 0:
            remarks.append(f"{_many(left, _CALLED[self.column])} named in no metadata file, and not read")

    def _pointed(self, row: Mapping[str, Any]) -> Mapping[str, Any] | Bad:
        """A metadata row with its files' paths in the columns that `datasets` puts them in."""
        out: dict[str, Any] = {}
        for key, value in row.items():
            if key == "file_name" or key.endswith("_file_name"):
                key = key.removesuffix("file_name").rstrip("_") or self.column
                if not isinstance(value, str):
                    return Bad("file_name", "the file's name is missing", "write its path from the metadata file")
                if (why := _outside(value)) is not None:
                    return Bad("file_name", f"'{value}' {why}", "write a path inside the metadata file's folder")
            out[key] = value
        if self.column in out or any(k.endswith("_file_name") for k in row):
            return out
        return Bad("file_name", "the row names no file", "name the column of paths file_name")

    def key(self) -> str:
        """A hash of all files that are read, and of the metadata."""
        told = [(p, stamp(self.folder / p)) for p in self.metadata]
        h = hashlib.sha256(json.dumps([self.column, self.depth, told]).encode())
        for path in self.paths() if not self.metadata else _pointed_at(self):
            try:
                h.update(json.dumps([path, stamp(self.folder / path)]).encode())
            except OSError:
                h.update(json.dumps([path, None]).encode())
        return h.hexdigest()


def _pointed_at(media: Media) -> Iterator[str]:
    wanted = _endings()[media.column]
    return (p for p, is_folder in visible(media.folder) if not is_folder and _ending(p) in wanted)


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'s are' if count > 1 else ' is'}"


def _outside(path: str) -> str | None:
    """Why a metadata file may not name a path; None where it may."""
    if "://" in path:
        return "is an address"
    parts = path.replace("\\", "/").split("/")
    if Path(path).is_absolute() or ".." in parts:
        return "leads out of the folder"
    return None


def _ending(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _endings() -> dict[str, frozenset[str]]:
    """The endings of pictures and of recordings, as `datasets` knows them."""
    from datasets.packaged_modules.audiofolder.audiofolder import AudioFolder
    from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

    images = frozenset(ImageFolder.EXTENSIONS) - {".mpg", ".mpeg"}
    return {"image": images, "audio": frozenset(AudioFolder.EXTENSIONS) - images}


def find(folder: Path, split: str | None, where: str) -> Media | Masked | Boxed | None:
    """The pictures or recordings that a folder is made of; None where it holds data files or neither.

    DataError where it has no such split, or folders do not tell the classes.
    """
    seen = _look(folder)
    if seen is None:
        return None
    if not seen.metadata and seen.counts["image"] and not seen.counts["audio"]:
        ends, there = _endings()["image"], [p for p, is_folder in visible(folder) if not is_folder]
        pictures = [p for p in there if _ending(p) in ends]
        beside = [p for p in there if _ending(p) not in ends]
        if (masked := mask_folders.find(folder, pictures, split, where)) is not None:
            return masked
        if (boxed := yolo_folders.find(folder, pictures, beside, split, where)) is not None:
            return boxed
    column = max(seen.counts, key=lambda c: (sum(seen.counts[c].values()), c == "image"))
    other = next(c for c in _CALLED if c != column)
    counts, called = seen.counts[column], _CALLED[column]
    starts = _starts(counts, seen.metadata)
    sizes = {name: sum(n for d, n in counts.items() if _within(d, tops)) for name, tops in starts.items()}
    wanted = splits.ranges(split, sizes, where)
    read = tuple(_cut(starts[name], counts, first, end) for name, first, end in wanted)
    chosen = [part for parts in read for part in parts]
    inside = [start for start, _, _ in chosen]
    metadata = tuple(p for p in seen.metadata if "" in inside or _top(p) in inside)
    remarks = []
    if others := sum(seen.counts[other].values()):
        remarks.append(f"{_many(others, _CALLED[other])} not read: the folder is taken for one of {called}s")
    if seen.nameless:
        remarks.append(f"{_many(seen.nameless, 'file')} without an ending and not read: {seen.first_nameless}")
    if metadata and sum(end - first for _, first, end in chosen) < sum(sizes[name] for name, _, _ in wanted):
        raise DataError(
            "a slice of a split is taken of files, and here a metadata file gives the rows",
            where=where,
            remedy="write limit, or the split's name alone",
        )
    depth = 0 if metadata else _depth(counts, starts, inside, where, called)
    if depth:
        empty = [d for d in seen.folders if _level(d, starts) == depth and not _holds(counts, d) and _within(d, inside)]
        remarks += [f"the folder {d} holds no {called}: its class has no row" for d in empty]
    count = sum(n for d, n in counts.items() if _within(d, inside))
    return Media(folder, column, tuple(chosen), depth, metadata, count, tuple(remarks))


@dataclass
class _Seen:
    """What a folder holds: files a folder of each kind, metadata files, folders, and files without an ending."""

    counts: dict[str, Counter[str]]
    metadata: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    nameless: int = 0
    first_nameless: str = ""


def _look(folder: Path) -> _Seen | None:
    endings: dict[str, frozenset[str]] | None = None
    seen = _Seen({c: Counter() for c in _CALLED})
    for path, is_folder in visible(folder):
        name = path.rpartition("/")[2]
        if is_folder:
            seen.folders.append(path)
        elif name.lower() in METADATA:
            seen.metadata.append(path)
        elif kind := files.kind_of(Path(name)):
            if not kind.startswith(_PAGES):
                return None
        elif not _ending(name):
            seen.nameless += 1
            seen.first_nameless = seen.first_nameless or path
        else:
            endings = endings or _endings()
            for column, known in endings.items():
                seen.counts[column][path.rpartition("/")[0]] += _ending(name) in known
    seen.counts = {c: +n for c, n in seen.counts.items()}
    return seen if any(seen.counts.values()) else None


def _starts(counts: Counter[str], metadata: Sequence[str]) -> dict[str, list[str]]:
    """Split -> the folders that are of it; one split, train, of the whole folder, where it is not cut into splits."""
    known = splits.keywords()
    tops = {_top(d) for d in counts}
    if any("/" not in p for p in metadata) or not all(t.lower() in known for t in tops):
        return {splits.TRAIN: [""]}
    out: dict[str, list[str]] = {}
    for top in sorted(tops):
        out.setdefault(known[top.lower()], []).append(top)
    return out


def _cut(tops: Sequence[str], counts: Counter[str], first: int, end: int) -> list[tuple[str, int, int]]:
    """A range of a split's files as ranges of its folders' files."""
    out, before = [], 0
    for top in tops:
        size = sum(n for d, n in counts.items() if _within(d, [top]))
        if first < before + size and end > before:
            out.append((top, max(0, first - before), min(size, end - before)))
        before += size
    return out


def _depth(
    counts: Counter[str], starts: Mapping[str, Sequence[str]], inside: Sequence[str], where: str, called: str
) -> int:
    """How deep the classes' folders lie, from a start; 0 where folders are no classes: there is one, or none.

    Classes are those of all splits: one of them may have rows of a single class.
    """
    levels = {_level(d, starts): d for d in sorted(counts, reverse=True) if _within(d, inside)}
    if len(levels) > 1:
        shown = " and ".join(f"'{d or '.'}'" for _, d in sorted(levels.items())[:2])
        raise DataError(
            f"{called}s lie at different depths, in {shown}, so that their folders do not tell the class",
            where=where,
            remedy="put each into its class's folder, or write a metadata.csv with file_name and label",
        )
    depth = next(iter(levels), 0)
    alike = [d for d in counts if _level(d, starts) == depth]
    whole = {d.split("/", 1)[1] if "/" in d and _top(d) in _tops(starts) else d for d in alike}
    classes = Counter(d.rpartition("/")[2] for d in whole)
    twice = next((name for name, n in classes.items() if n > 1), None)
    if twice is not None:
        raise DataError(
            f"several folders are called '{twice}', so that they do not tell the class",
            where=where,
            remedy="rename them, or write a metadata.csv with file_name and label",
        )
    return depth if len(classes) > 1 else 0


def _tops(starts: Mapping[str, Sequence[str]]) -> set[str]:
    return {top for tops in starts.values() for top in tops if top}


def _level(folder: str, starts: Mapping[str, Sequence[str]]) -> int:
    depth = len(folder.split("/")) if folder else 0
    return depth - (_top(folder) in _tops(starts))


def _top(path: str) -> str:
    return path.split("/", 1)[0]


def _holds(counts: Counter[str], folder: str) -> bool:
    return any(d == folder or d.startswith(f"{folder}/") for d in counts)


def _within(folder: str, starts: Sequence[str]) -> bool:
    return "" in starts or _top(folder) in starts
