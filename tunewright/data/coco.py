"""A file of COCO's: one JSON object with `images`, `annotations` and `categories`, beside the pictures.

Each image is a row: `image` (its path from the file), `width` and `height` where the file has them, and `objects` with
`bbox`, `category` (the categories' names) and `iscrowd`. Its number is its place among `images`, from 1. Pictures lie
in the file's folder, in one inside it or beside it, or beside the folder (`annotations/instances_train2017.json` and
`train2017/`): where the first one is found; of several such the one whose name is a part of the file's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tunewright.data.raw import Bad

PARTS = ("images", "annotations", "categories")


def is_coco(value: Any) -> bool:
    """Whether a JSON value is one of COCO's files of objects."""
    return isinstance(value, dict) and all(isinstance(value.get(k), list) for k in PARTS)


def coco_rows(value: Mapping[str, Any], path: Path) -> Iterator[tuple[int, Mapping[str, Any] | Bad]]:
    """The rows of such a file. An image that cannot be read, and one with an annotation that cannot, is a Bad; so is,
    behind them, an annotation of no image.
    """
    names = _names(value["categories"])
    of: dict[Any, list[tuple[int, Any]]] = {}
    for k, one in enumerate(value["annotations"]):
        of.setdefault(_key(one, "image_id"), []).append((k, one))
    images = value["images"]
    first = next((i["file_name"] for i in images if isinstance(i, dict) and isinstance(i.get("file_name"), str)), "")
    inside = _folder(path, first)
    for number, image in enumerate(images, 1):
        drawn = of.pop(image["id"], []) if isinstance(image, dict) and _is_id(image.get("id")) else []
        yield number, _row(image, drawn, names, inside)
    for drawn in of.values():
        for number, (k, one) in enumerate(drawn, len(images) + 1):
            said = f"annotations[{k}] is of the image {_key(one, 'image_id')!r}, which is not among images"
            yield number, Bad("image_id", said, "add the image, or take the annotation out")


def _key(one: Any, field: str) -> Any:
    value = one.get(field) if isinstance(one, dict) else None
    return value if _is_id(value) else None


def _is_id(value: Any) -> bool:
    return isinstance(value, int | str)


def _names(categories: list[Any]) -> dict[Any, str]:
    """Id -> name, with the id where two categories have one name."""
    named = {c["id"]: str(c.get("name", c["id"])) for c in categories if isinstance(c, dict) and _is_id(c.get("id"))}
    every = list(named.values())
    return {k: f"{name} ({k})" if every.count(name) > 1 else name for k, name in named.items()}


def _row(image: Any, drawn: list[tuple[int, Any]], names: Mapping[Any, str], inside: str) -> Mapping[str, Any] | Bad:
    if not isinstance(image, dict) or not isinstance(image.get("file_name"), str) or not _is_id(image.get("id")):
        return Bad("images", "an image needs a file_name and an id", 'write {"id": 1, "file_name": "1.jpg"}')
    objects: dict[str, Any] = {"format": "coco", "bbox": [], "category": [], "iscrowd": []}
    for k, one in drawn:
        if _key(one, "category_id") not in names:
            said = f"annotations[{k}] is of the category {one.get('category_id')!r}, which is not among categories"
            return Bad("category_id", said, "add the category, or take the annotation out")
        if not isinstance(one.get("bbox"), list):
            return Bad("bbox", f"annotations[{k}] has no bbox", "write [x, y, width, height] in pixels")
        objects["bbox"].append(one["bbox"])
        objects["category"].append(names[one["category_id"]])
        objects["iscrowd"].append(int(bool(one.get("iscrowd"))))
    size = {k: image[k] for k in ("width", "height") if isinstance(image.get(k), int)}
    return {"image": os.path.join(inside, image["file_name"]), **size, "objects": objects}


def _folder(path: Path, first: str) -> str:
    """The folder of the pictures, from the file's; "" (its own) where the first of them is nowhere."""
    own, above = path.parent, path.parent.parent
    near = [own, *_within(own), above, *_within(above), *(d for f in _within(above) for d in _within(f))]
    found = [d for d in near if first and (d / first).is_file()]
    if not found:
        return ""
    best = next((d for d in found if d.name and d != own and d.name.lower() in path.stem.lower()), found[0])
    chosen = own if own in found else best
    return "" if chosen == own else os.path.relpath(chosen, own)


def _within(folder: Path) -> list[Path]:
    try:
        return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    except OSError:  # a folder above that may not be listed holds no pictures that could be read
        return []
