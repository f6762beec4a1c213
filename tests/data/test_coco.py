"""COCO's files beside their pictures, folders of YOLO's texts, and metadata.jsonl as `datasets` has it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tunewright.data.read import read_all
from tunewright.errors import DataError
from tunewright.planning.init import rows_seen
from tunewright.recipe import Source
from tunewright.trials.trial_key import _content as content_of

KINDS = [{"id": 3, "name": "cat"}, {"id": 8, "name": "dog"}]


def picture(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 10)).save(path)


def coco(path: Path, names: list[str], annotations: Any = (), **more: Any) -> Path:
    images = [{"id": i, "file_name": name, "width": 20, "height": 10} for i, name in enumerate(names)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": images, "annotations": list(annotations), "categories": KINDS, **more}))
    return path


def box(image: Any, kind: Any = 3, at: Any = (1, 2, 3, 4), **more: Any) -> dict[str, Any]:
    return {"id": 1, "image_id": image, "category_id": kind, "bbox": list(at), "area": 12, **more}


def read(path: str, root: Path, **how: Any) -> Any:
    return read_all(Source(path=path, **how), root)


@pytest.mark.parametrize("indent", [None, 1])
def test_images_with_their_annotations_are_rows(indent: int | None, tmp_path: Path) -> None:
    picture(tmp_path / "a.png", tmp_path / "b.png")
    file = coco(tmp_path / "x.json", ["a.png", "b.png"], [box(1, 8), box(0), box(1, 3, (0, 0, 2, 2), iscrowd=1)])
    file.write_text(json.dumps(json.loads(file.read_text()), indent=indent))
    found = read("x.json", tmp_path)
    assert not found.problems and [r.shape for r in found.records] == ["image-objects"] * 2
    a, b = found.records
    assert a["image"] == "a.png" and (a["width"], a["height"]) == (20, 10) and a.id == "x.json:1"
    assert a["objects"] == {"format": "coco", "bbox": [[1, 2, 3, 4]], "category": ["cat"], "iscrowd": [0]}
    assert b["objects"]["category"] == ["dog", "cat"] and b["objects"]["iscrowd"] == [0, 1]
    assert rows_seen(str(file)).task("any") == "object-detection"


@pytest.mark.parametrize(
    "file, folder",
    [
        ("x.json", ""),
        ("x.json", "images"),
        ("annotations/instances_train2017.json", "train2017"),
        ("annotations/instances_val.json", "images/val"),
    ],
)
def test_pictures_are_found_where_people_put_them(file: str, folder: str, tmp_path: Path) -> None:
    root = tmp_path / "set"
    picture(root / folder / "a.png")
    at = coco(root / file, ["a.png"], [box(0)])
    if folder.startswith(("train2017", "images/val")):
        picture(root / "other" / "a.png", root / "images" / "test" / "a.png")
    (record,) = read(file, root).records
    assert (at.parent / record["image"]).resolve() == (root / folder / "a.png").resolve()


def test_splits_are_those_of_folders(tmp_path: Path) -> None:
    for split, names in (("train", ["a.png", "b.png"]), ("valid", ["c.png"])):
        picture(*(tmp_path / "set" / split / n for n in names))
        coco(tmp_path / "set" / split / "_annotations.coco.json", names)
    assert [r["image"] for r in read("set", tmp_path, split="train").records] == ["a.png", "b.png"]
    (held,) = read("set", tmp_path, split="validation").records
    assert held["image"] == "c.png" and held.base.endswith("valid")


def test_what_does_not_belong_together_is_said_with_its_place(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    wrong = [box(0, 5), box(7), box(1), {**box(2), "bbox": None}]
    coco(tmp_path / "x.json", ["a.png", "a.png", "a.png"], wrong)
    found = read("x.json", tmp_path)
    assert [r.id for r in found.records] == ["x.json:2"]
    said = {(p.where, p.field): p.reason for p in found.problems}
    assert said == {
        ("x.json:1", "category_id"): "annotations[0] is of the category 5, which is not among categories",
        ("x.json:3", "bbox"): "annotations[3] has no bbox",
        ("x.json:4", "image_id"): "annotations[1] is of the image 7, which is not among images",
    }
    coco(tmp_path / "y.json", [], images=[{"id": 1}, "b.png"])
    assert [p.field for p in read("y.json", tmp_path).problems] == ["images", "images"]


def test_categories_of_one_name_are_told_apart(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    twice = [{"id": 3, "name": "N/A"}, {"id": 8, "name": "N/A"}, {"id": 9, "name": "cat"}]
    coco(tmp_path / "x.json", ["a.png"], [box(0, 3), box(0, 8), box(0, 9)], categories=twice)
    (record,) = read("x.json", tmp_path).records
    assert record["objects"]["category"] == ["N/A (3)", "N/A (8)", "cat"]


def test_a_metadata_file_names_pictures_and_their_boxes(tmp_path: Path) -> None:
    picture(tmp_path / "set" / "a.png")
    row = {"file_name": "a.png", "objects": {"bbox": [[1, 2, 3, 4]], "categories": [0]}}
    (tmp_path / "set" / "metadata.jsonl").write_text(json.dumps(row) + "\n")
    (record,) = read("set", tmp_path).records
    assert record.shape == "image-objects" and record["objects"] == row["objects"]


def yolo(root: Path, split: str = "", **texts: str | None) -> None:
    for stem, text in texts.items():
        picture(root / split / "images" / f"{stem}.png")
        if text is not None:
            (root / split / "labels").mkdir(parents=True, exist_ok=True)
            (root / split / "labels" / f"{stem}.txt").write_text(text)


def test_texts_of_yolo_are_boxes(tmp_path: Path) -> None:
    root = tmp_path / "set"
    yolo(root, a="1 0.5 0.5 0.2 0.4\n\n0 .1 .1 .1 .1\n", b="", c=None)
    (root / "data.yaml").write_text("names: [cat, dog]\n")
    found = read("set", tmp_path)
    a, b, c = found.records
    assert a["image"] == "images/a.png" and a.base == str(root)
    assert a["objects"] == {
        "format": "yolo",
        "bbox": [[0.5, 0.5, 0.2, 0.4], [0.1, 0.1, 0.1, 0.1]],
        "category": ["dog", "cat"],
    }
    assert b["objects"]["bbox"] == c["objects"]["bbox"] == []
    assert found.remarks == ["1 picture has no text in labels: nothing is shown there"]


@pytest.mark.parametrize(
    "names, wanted",
    [
        ({"data.yaml": "names: {0: cat, 1: big dog}"}, ["big dog"]),
        ({"classes.txt": "cat\nbig dog\n"}, ["big dog"]),
        ({"labels/classes.txt": "cat\nbig dog\n"}, ["big dog"]),
        ({"data.yaml": "nc: 2"}, ["1"]),
        ({}, ["1"]),
    ],
)
def test_classes_are_called_as_a_file_says(names: dict[str, str], wanted: list[str], tmp_path: Path) -> None:
    yolo(tmp_path / "set", a="1 0.5 0.5 0.2 0.4")
    for name, text in names.items():
        (tmp_path / "set" / name).write_text(text)
    (record,) = read("set", tmp_path).records
    assert record["objects"]["category"] == wanted


def test_splits_of_yolo_lie_above_or_below(tmp_path: Path) -> None:
    for k, place in enumerate(("{split}/images/{stem}", "images/{split}/{stem}")):
        root = tmp_path / str(k)
        for split, stems in (("train", "abc"), ("val", "d")):
            for stem in stems:
                path = root / place.format(split=split, stem=f"{stem}.png")
                picture(path)
                text = Path(str(path).replace("images", "labels")).with_suffix(".txt")
                text.parent.mkdir(parents=True, exist_ok=True)
                text.write_text("0 .5 .5 .1 .1")
        train, held = (read(str(k), tmp_path, split=s).records for s in ("train[1:]", "validation"))
        assert [Path(r["image"]).stem for r in train] == ["b", "c"] and [Path(r["image"]).stem for r in held] == ["d"]
        assert all(r["objects"]["bbox"] for r in [*train, *held])
        with pytest.raises(DataError, match="there is no split 'test'"):
            read(str(k), tmp_path, split="test")


@pytest.mark.parametrize(
    "text, said",
    [
        ("1 0.5 0.5 0.2", "labels/a.txt:1 is no box: 1 0.5 0.5 0.2"),
        ("0 .1 .1 .1 .1\nx .1 .1 .1 .1", "labels/a.txt:2 is no box: x"),
        ("0 .1 .1 .2 .2 .3 .3 .4 .4", r"labels/a.txt:1 is no box \(a polygon, or a box with a score\?\)"),
        ("0.5 .1 .1 .1 .1", "is no box"),
        ("-1 .1 .1 .1 .1", "is no box"),
        ("2 .1 .1 .1 .1", "has the class 2, and names are given for 2"),
    ],
)
def test_a_line_that_is_no_box_is_said(text: str, said: str, tmp_path: Path) -> None:
    yolo(tmp_path / "set", a=text, b="")
    (tmp_path / "set" / "data.yaml").write_text("names: [cat, dog]")
    found = read("set", tmp_path)
    (problem,) = found.problems
    assert [r["image"] for r in found.records] == ["images/b.png"] and problem.where == "set/images/a.png"
    import re

    assert problem.field == "objects" and re.search(said, problem.reason)


def test_names_that_cannot_be_read_are_said(tmp_path: Path) -> None:
    yolo(tmp_path / "set", a="")
    (tmp_path / "set" / "data.yaml").write_text("names: [cat")
    with pytest.raises(DataError, match="names of the classes cannot be read"):
        read("set", tmp_path)


def test_a_text_that_is_written_anew_is_seen(tmp_path: Path) -> None:
    yolo(tmp_path / "set", a="0 .1 .1 .1 .1")
    before = content_of(Source(path="set"), tmp_path)
    (tmp_path / "set" / "labels" / "a.txt").write_text("0 .1 .1 .1 .12")
    assert content_of(Source(path="set"), tmp_path) != before
