"""Folders of pictures and masks of the same stem, with splits as people lay them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tunewright.data.read import read_all
from tunewright.errors import DataError
from tunewright.planning.init import rows_seen
from tunewright.recipe import Source
from tunewright.training.defaults import MOST_TOKENS, Facts, derive, rows_a_step
from tunewright.trials.trial_key import _content as content_of


def write(root: Path, *names: str) -> None:
    for k, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4), k, np.uint8)).save(root / name)


def read(root: Path, split: str | None = None) -> list[tuple[str, str]]:
    found = read_all(Source(path=root.name, split=split), root.parent)
    assert not found.problems and all(r.shape == "image-mask" and r.base == str(root) for r in found.records)
    return [(r["image"], r["mask"]) for r in found.records]


@pytest.mark.parametrize(
    "pictures, masks",
    [("images", "masks"), ("imgs", "annotations"), ("JPEGImages", "SegmentationClass"), ("image", "labels")],
)
def test_a_picture_is_paired_with_the_mask_of_its_stem(pictures: str, masks: str, tmp_path: Path) -> None:
    root = tmp_path / "rows"
    write(root, f"{pictures}/b.jpg", f"{pictures}/a.png", f"{masks}/a.png", f"{masks}/b.png")
    assert read(root) == [(f"{pictures}/a.png", f"{masks}/a.png"), (f"{pictures}/b.jpg", f"{masks}/b.png")]
    record = read_all(Source(path="rows"), tmp_path).records[0]
    assert record.id == f"{pictures}/a.png" and record.where == f"rows/{pictures}/a.png"


@pytest.mark.parametrize(
    "of",
    ["{split}/images/{stem}.png {split}/masks/{stem}.png", "images/{split}/{stem}.png annotations/{split}/{stem}.png"],
)
def test_splits_lie_above_or_below(of: str, tmp_path: Path) -> None:
    root = tmp_path / "rows"
    for split, stems in (("training", "abc"), ("validation", "d")):
        write(root, *(name for stem in stems for name in of.format(split=split, stem=stem).split()))
    pairs = {
        s: [tuple(of.format(split=s, stem=stem).split()) for stem in stems]
        for s, stems in (("training", "abc"), ("validation", "d"))
    }
    assert read(root, "train") == read(root) == pairs["training"] and read(root, "validation") == pairs["validation"]
    assert read(root, "train[1:]") == pairs["training"][1:]
    with pytest.raises(DataError, match="there is no split 'test'"):
        read(root, "test")


def test_what_has_no_mask_or_two_is_a_row_that_cannot_be_used(tmp_path: Path) -> None:
    root = tmp_path / "rows"
    write(root, "images/a.png", "images/b.png", "images/c.png", "images/d.png", "images/d.bmp")
    write(root, "masks/a.png", "masks/b.png", "masks/b.tif", "masks/d.png", "masks/e.png")
    found = read_all(Source(path="rows"), tmp_path)
    assert [r["image"] for r in found.records] == ["images/a.png"]
    said = {p.where: (p.field, p.reason) for p in found.problems}
    assert said == {
        "rows/images/b.png": ("mask", "masks/b.png and masks/b.tif have the same stem"),
        "rows/images/c.png": ("mask", "there is no mask c in masks"),
        "rows/images/d.bmp": ("mask", "images/d.bmp and images/d.png have the same stem"),
        "rows/images/d.png": ("mask", "images/d.bmp and images/d.png have the same stem"),
    }
    assert any("1 mask has no picture of the same stem in images, such as e" in r for r in found.remarks)


def test_two_folders_of_masks_are_asked_about(tmp_path: Path) -> None:
    write(tmp_path / "rows", "images/a.png", "masks/a.png", "annotations/a.png")
    with pytest.raises(DataError, match="in annotations or masks"):
        read(tmp_path / "rows")


def test_other_folders_are_classes_as_before(tmp_path: Path) -> None:
    for folders in (("images", "drawings"), ("cat", "masks")):
        root = tmp_path / folders[0]
        write(root, *(f"{folder}/a.png" for folder in folders))
        found = read_all(Source(path=root.name), tmp_path)
        assert sorted(r["label"] for r in found.records) == sorted(folders)


def test_the_key_hangs_on_every_mask(tmp_path: Path) -> None:
    write(tmp_path / "rows", "images/a.png", "masks/a.png")
    source = Source(path="rows")
    before = content_of(source, tmp_path)
    assert content_of(source, tmp_path) == before
    Image.fromarray(np.full((4, 4), 9, np.uint8)).save(tmp_path / "rows" / "masks" / "a.png")
    assert content_of(source, tmp_path) != before


def test_a_first_recipe_is_of_the_task_that_reads_masks(tmp_path: Path) -> None:
    root = tmp_path / "rows"
    write(root, "images/a.png", "masks/a.png")
    (root / "rows.csv").write_text("image,label\nimages/a.png,masks/a.png\n")
    (root / "names.csv").write_text("image,label\nimages/a.png,cat\n")
    tasks = {name: rows_seen(str(root / name)).task("none") for name in ("rows.csv", "names.csv")}
    assert tasks == {"rows.csv": "image-segmentation", "names.csv": "image-classification"}
    for name in tasks:
        (root / name).unlink()
    assert rows_seen(str(root)).task("none") == "image-segmentation"


def test_a_step_holds_as_many_pictures_as_their_patches_let_it() -> None:
    def batch(each: int) -> float:
        return derive(Facts("image-segmentation", "pictures", 800, 800 * each, None))["batch_tokens"].value

    rows = rows_a_step(800)
    assert (batch(1), batch(4), batch(1 << 20)) == (rows, 4 * rows, MOST_TOKENS)
