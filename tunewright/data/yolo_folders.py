"""Folders of pictures with a text of boxes each, as YOLO's tools lay them: `images/a.jpg` and `labels/a.txt`.

A line of a text is `class x y width height`: the class's number, and the box's middle and size as shares of the
picture. A picture without a text, or with an empty one, shows nothing. Classes are called as `names` of a `data.yaml`
(or another YAML file there) or the lines of a `classes.txt` say, else by their numbers. The two folders may lie in one
of a split (`train/images`, `train/labels`) or hold the splits (`images/train`, `labels/train`).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from tunewright.data import splits
from tunewright.data.raw import Bad
from tunewright.errors import DataError
from tunewright.files.stamp import stamp

LABELS, PICTURES = "labels", "images"
_CLASSES = "classes.txt"
_LINE = "write `class x y width height`: a whole number, and shares of the picture from 0 to 1"


@dataclass(frozen=True)
class Boxed:
    """Such a folder, read as `data.media.Media` is. `pairs`: (path of a picture from the folder, its text's or none).
    `files`: every file that a row is told by. `names`: what the classes are called.
    """

    folder: Path
    pairs: tuple[tuple[str, str | None], ...]
    files: tuple[str, ...]
    names: tuple[tuple[int, str], ...]
    remarks: tuple[str, ...] = ()
    metadata: tuple[str, ...] = ()
    column: str = field(default="image", init=False)

    def rows(self, name: str, remarks: list[str]) -> Iterator[tuple[str, str, Mapping[str, Any] | Bad, str]]:
        """The rows, as `Media.rows` gives them."""
        remarks += self.remarks
        names = dict(self.names)
        for path, text in self.pairs:
            objects = _objects(self.folder, text, names)
            row = objects if isinstance(objects, Bad) else {"image": path, "objects": objects}
            yield path, f"{name.rstrip('/')}/{path}", row, str(self.folder)

    def key(self) -> str:
        """A hash of all files that are read."""
        told = [["boxed", *(p for p, _ in self.pairs)]]
        told += [[file, *map(str, stamp(self.folder / file))] for file in self.files]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def find(folder: Path, pictures: Sequence[str], others: Sequence[str], split: str | None, where: str) -> Boxed | None:
    """What a folder of these pictures and other files (paths from it) is, where every picture lies in a folder `images`
    and some have a text in the folder `labels` beside it; None for any other. DataError where it has no such split.
    """
    texts = {p for p in others if p.lower().endswith(".txt") and LABELS in _parts(p)[:-1]}
    if not texts or not all(PICTURES in _parts(p)[:-1] for p in pictures):
        return None
    known, of = splits.keywords(), dict[str, list[str]]()
    for path in pictures:
        name = next((known[part] for part in _parts(path)[:-1] if part in known), splits.TRAIN)
        of.setdefault(name, []).append(path)
    sizes = {name: len(some) for name, some in of.items()}
    chosen = [p for name, first, end in splits.ranges(split, sizes, where) for p in of[name][first:end]]
    pairs = [(p, text if (text := _text_of(p)) in texts else None) for p in chosen]
    named = [p for p in others if p.lower().endswith((".yaml", ".yml")) or p.lower().rpartition("/")[2] == _CLASSES]
    files = [f for pair in pairs for f in pair if f is not None] + named
    remarks = []
    if bare := sum(text is None for _, text in pairs):
        remarks.append(f"{bare:,} picture{'s have' if bare > 1 else ' has'} no text in labels: nothing is shown there")
    return Boxed(folder, tuple(pairs), tuple(files), tuple(_names(folder, named, where)), tuple(remarks))


def _parts(path: str) -> list[str]:
    return path.lower().split("/")


def _text_of(path: str) -> str:
    """The path of a picture's text: the last `images` of its folders becomes `labels`."""
    parts = path.split("/")
    at = max(i for i, part in enumerate(parts[:-1]) if part.lower() == PICTURES)
    return "/".join([*parts[:at], LABELS, *parts[at + 1 : -1], PurePosixPath(path).stem + ".txt"])


def _names(folder: Path, named: Sequence[str], where: str) -> Iterator[tuple[int, str]]:
    for path in sorted(named, key=lambda p: (not p.lower().endswith((".yaml", ".yml")), p)):
        try:
            text = (folder / path).read_text(encoding="utf-8")
            told = text.splitlines() if path.lower().endswith(".txt") else yaml.safe_load(text)
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            what = f"the names of the classes cannot be read: {str(error).splitlines()[0]}"
            raise DataError(what, where=f"{where}/{path}", remedy="write names: [cat, dog]") from None
        told = told.get("names") if isinstance(told, dict) else told
        if isinstance(told, list):
            told = dict(enumerate(told))
        if isinstance(told, dict) and all(isinstance(k, int) for k in told):
            yield from ((k, str(name).strip()) for k, name in sorted(told.items()) if str(name).strip())
            return


def _objects(folder: Path, text: str | None, names: Mapping[int, str]) -> dict[str, Any] | Bad:
    objects: dict[str, Any] = {"format": "yolo", "bbox": [], "category": []}
    try:
        lines = [] if text is None else (folder / text).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        return Bad("objects", f"{text} cannot be read: {str(error).splitlines()[0]}", "write it as UTF-8 text")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            kind, *box = [float(word) for word in line.split()]
            whole = math.isfinite(kind) and kind == int(kind) >= 0 and len(box) == 4
        except ValueError:
            whole = False
        if not whole:
            several = " (a polygon, or a box with a score?)" if len(line.split()) > 5 else ""
            return Bad("objects", f"{text}:{number} is no box{several}: {line.strip()[:60]}", _LINE)
        if names and int(kind) not in names:
            said = f"{text}:{number} has the class {int(kind)}, and names are given for {len(names)}"
            return Bad("objects", said, "add its name, or take the line out")
        objects["bbox"].append(box)
        objects["category"].append(names.get(int(kind), str(int(kind))))
    return objects
