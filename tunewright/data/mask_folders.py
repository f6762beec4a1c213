"""Folders of pictures with a mask each, of the same stem: `images/a.jpg` and `masks/a.png`.

The two folders may lie in one of a split (`train/images`, `train/masks`) or hold the splits (`images/training`,
`annotations/training`). A picture without a mask, or with two, is a row that cannot be used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from tunewright.data import splits
from tunewright.data.raw import Bad
from tunewright.errors import DataError
from tunewright.files.stamp import stamp

PICTURES = ("images", "image", "imgs", "img", "pictures", "jpegimages")
MASKS = ("masks", "mask", "annotations", "annotation", "labels", "segmentationclass")
"""What people call the two folders, in any case."""


@dataclass(frozen=True)
class Masked:
    """Such a folder, read as `data.media.Media` is. `pairs`: (path of a picture from the folder, its mask's or why it
    has none), in the order of the paths. `files`: every file that a row is told by.
    """

    folder: Path
    pairs: tuple[tuple[str, str | Bad], ...]
    files: tuple[str, ...]
    remarks: tuple[str, ...] = ()
    metadata: tuple[str, ...] = ()
    column: str = field(default="image", init=False)

    def rows(self, name: str, remarks: list[str]) -> Iterator[tuple[str, str, Mapping[str, str] | Bad, str]]:
        """The rows, as `Media.rows` gives them."""
        remarks += self.remarks
        for path, mask in self.pairs:
            row = mask if isinstance(mask, Bad) else {"image": path, "mask": mask}
            yield path, f"{name.rstrip('/')}/{path}", row, str(self.folder)

    def key(self) -> str:
        """A hash of all files that are read."""
        told = [["masked", *(p for p, _ in self.pairs)]]
        told += [[p, *map(str, stamp(self.folder / p))] for p in self.files]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def find(folder: Path, pictures: Sequence[str], split: str | None, where: str) -> Masked | None:
    """What a folder of these pictures (paths from it) is, where each lies in a folder of pictures or in one of masks;
    None for any other. DataError where it has no such split, or two folders of masks.
    """
    by_folder: dict[str, list[str]] = {}
    for path in pictures:
        by_folder.setdefault(path.rpartition("/")[0], []).append(path)
    beside = {d: _masks_of(d, by_folder, where) for d in by_folder if _place(d, PICTURES) is not None}
    masks = {m for m in beside.values() if m is not None}
    if not masks or beside.keys() | masks != by_folder.keys():
        return None
    known = splits.keywords()
    of_split: dict[str, list[str]] = {}
    for d in sorted(beside):
        name = next((known[part.lower()] for part in d.split("/") if part.lower() in known), splits.TRAIN)
        of_split.setdefault(name, []).append(d)
    pairs, files, remarks = list[tuple[str, str | Bad]](), list[str](), list[str]()
    sizes = {name: sum(len(by_folder[d]) for d in some) for name, some in of_split.items()}
    for name, first, end in splits.ranges(split, sizes, where):
        made = list[tuple[str, str | Bad]]()
        for d in of_split[name]:
            drawn = by_folder.get(beside[d] or "", [])
            made += _paired(by_folder[d], drawn, beside[d])
            files += [*by_folder[d], *drawn]
            if left := {_stem(p) for p in drawn} - {_stem(p) for p in by_folder[d]}:
                what = "mask has" if len(left) == 1 else "masks have"
                remarks.append(f"{len(left):,} {what} no picture of the same stem in {d}, such as {min(left)}")
        pairs += made[first:end]
    return Masked(folder, tuple(pairs), tuple(files), tuple(remarks))


def _place(folder: str, names: Sequence[str]) -> int | None:
    """Which part of a path is one of the names; the last that is."""
    parts = folder.lower().split("/")
    return next((i for i in reversed(range(len(parts))) if parts[i] in names), None)


def _masks_of(folder: str, known: Mapping[str, object], where: str) -> str | None:
    """The folder of masks that belongs to one of pictures: the same path but for its name."""
    at, parts = _place(folder, PICTURES), folder.split("/")
    assert at is not None

    def same(other: str) -> bool:
        theirs = other.split("/")
        alike = len(theirs) == len(parts) and theirs[:at] + theirs[at + 1 :] == parts[:at] + parts[at + 1 :]
        return alike and theirs[at].lower() in MASKS

    found = [d for d in known if same(d)]
    if len(found) > 1:
        what = f"the pictures in {folder} may have their masks in {' or '.join(sorted(found))}"
        raise DataError(what, where=where, remedy="leave one of them there, or name the files in rows: image, mask")
    return found[0] if found else None


def _stem(path: str) -> str:
    return PurePosixPath(path).stem


def _by_stem(paths: Sequence[str]) -> dict[str, list[str]]:
    out: dict[str, list[str]] = {}
    for path in paths:
        out.setdefault(_stem(path), []).append(path)
    return out


def _paired(pictures: Sequence[str], masks: Sequence[str], folder: str | None) -> Iterator[tuple[str, str | Bad]]:
    drawn, shown = _by_stem(masks), _by_stem(pictures)
    for path in pictures:
        own, twice = drawn.get(_stem(path), []), shown[_stem(path)]
        if len(own) == 1 and len(twice) == 1:
            yield path, own[0]
        elif not own:
            where = f"in {folder}" if folder else "beside it"
            yield path, Bad("mask", f"there is no mask {_stem(path)} {where}", "draw it, or take the picture out")
        else:
            both = " and ".join(sorted(own if len(own) > 1 else twice))
            yield path, Bad("mask", f"{both} have the same stem", "leave one of them, or give them other names")
