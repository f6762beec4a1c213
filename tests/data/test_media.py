"""Folders of pictures and recordings: the layouts of `datasets` and torchvision, and what would be missed."""

from __future__ import annotations

import json
import os

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests import tiny
from tunewright.contract.task import EncodeOptions
from tunewright.data.check import check
from tunewright.data.dataset import stored
from tunewright.data.read import read_all
from tunewright.errors import DataError
from tunewright.recipe import Source
from tunewright.tasks import get_task
from tunewright.tasks.image_classification import image_options

datasets.disable_progress_bars()
SMALL = {**image_options(), "height": 4, "width": 4}


def picture(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4, 3), value, np.uint8)).save(path)


def pictures(folder, *paths):
    for i, path in enumerate(paths):
        picture(folder / path, i)


def read(folder, **more):
    return read_all(Source(path=folder.name, **more), folder.parent)


def named(got):
    return {r.id: r.get("label") for r in got.records}


@pytest.fixture
def pets(tmp_path):
    folder = tmp_path / "pets"
    pictures(folder, "train/cat/1.png", "train/cat/2.JPG", "train/dog/1.png", "test/cat/9.png")
    return folder


def test_class_folders_in_folders_of_splits(pets):
    got = read(pets)
    assert named(got) == {"train/cat/1.png": "cat", "train/cat/2.JPG": "cat", "train/dog/1.png": "dog"}
    assert {r.shape for r in got.records} == {"image-label"} and not got.remarks and not got.problems
    assert [r.where for r in got.records][0] == "pets/train/cat/1.png"
    assert named(read(pets, split="test")) == {"test/cat/9.png": "cat"}
    assert list(named(read(pets, split="train[1:2]+test"))) == ["train/cat/2.JPG", "test/cat/9.png"]
    assert list(named(read(pets, split="train[:34%]"))) == ["train/cat/1.png"]
    assert named(read(pets / "train")) == {"cat/1.png": "cat", "cat/2.JPG": "cat", "dog/1.png": "dog"}
    with pytest.raises(DataError, match="no split 'validation'"):
        read(pets, split="validation")


@pytest.mark.parametrize(
    "paths",
    [
        ("train/cat/1.png", "train/dog/1.png", "val/cat/9.png"),
        ("cat/1.png", "dog/1.png", "dog/2.jpg"),
        ("a/cat/1.png", "b/dog/1.png"),
        ("1.png", "2.png"),
        ("one/1.png", "one/2.png"),
    ],
)
def test_rows_are_those_of_datasets(tmp_path, paths):
    folder = tmp_path / "f"
    pictures(folder, *paths)
    theirs = datasets.load_dataset("imagefolder", data_dir=str(folder), cache_dir=str(tmp_path / "cache"))
    for split, rows in theirs.items():
        rows = rows.cast_column("image", datasets.Image(decode=False))
        names = rows.features["label"].names if "label" in rows.features else None
        expected = {
            os.path.relpath(r["image"]["path"], folder): None if names is None else names[r["label"]] for r in rows
        }
        assert named(read(folder, split=split)) == expected


def test_folders_of_splits_are_no_classes(tmp_path):
    """`datasets` takes their names for labels where no class has a folder."""
    pictures(tmp_path / "f", "train/1.png", "test/2.png")
    assert named(read(tmp_path / "f")) == {"train/1.png": None} and read(tmp_path / "f").records[0].shape == "image"


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.tsv", "metadata.jsonl", "metadata.parquet"])
def test_a_metadata_file_gives_the_rows(tmp_path, name):
    folder = tmp_path / "f"
    pictures(folder, "cat/a.png", "dog/b.png", "dog/c.png")
    rows = [{"file_name": "cat/a.png", "label": "007"}, {"file_name": "dog/b.png", "label": "NA"}]
    if name.endswith("jsonl"):
        (folder / name).write_text("\n".join(map(json.dumps, rows)))
    elif name.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist(rows), folder / name)
    else:
        mark = "," if name.endswith("csv") else "\t"
        lines = [mark.join(rows[0]), *(mark.join(r.values()) for r in rows)]
        (folder / name).write_text("\n".join(lines))
    got = read(folder)
    assert [dict(r) for r in got.records] == [
        {"image": "cat/a.png", "label": "007"},
        {"image": "dog/b.png", "label": "NA"},
    ]
    assert got.records[0].id.startswith(f"{name}:") and got.remarks == [
        "1 picture is named in no metadata file, and not read"
    ]


def test_metadata_of_a_split_and_columns_of_several_files(tmp_path):
    folder = tmp_path / "f"
    pictures(folder, "train/a.png", "train/b.png", "test/c.png")
    (folder / "train" / "metadata.jsonl").write_text('{"file_name": "a.png", "after_file_name": "b.png", "text": "x"}')
    (folder / "test" / "metadata.jsonl").write_text('{"file_name": "c.png", "label": "y"}')
    (got,) = read(folder).records
    assert dict(got) == {"image": "a.png", "after": "b.png", "text": "x"} and got.base == str(folder / "train")
    assert named(read(folder, split="test")) == {"test/metadata.jsonl:1": "y"}
    with pytest.raises(DataError, match="a slice of a split is taken of files"):
        read(folder, split="train[:1]")


@pytest.mark.parametrize(
    "row, reason",
    [
        ({"file_name": "../a.png"}, "'../a.png' leads out of the folder"),
        ({"file_name": "/etc/passwd"}, "'/etc/passwd' leads out of the folder"),
        ({"file_name": "file:///etc/passwd"}, "'file:///etc/passwd' is an address"),
        ({"file_name": None}, "the file's name is missing"),
        ({"file": "a.png"}, "the row names no file"),
    ],
)
def test_metadata_rows_that_cannot_be_used_stop_no_others(tmp_path, row, reason):
    folder = tmp_path / "f"
    pictures(folder, "a.png")
    (folder / "metadata.jsonl").write_text(json.dumps(row) + '\n{"file_name": "a.png", "label": "x"}')
    got = read(folder)
    assert [(p.where, p.reason) for p in got.problems] == [("f/metadata.jsonl:1", reason)] and got.problems[0].remedy
    assert len(got.records) == 1


def test_what_is_not_read_and_could_be_missed_is_said(tmp_path):
    folder = tmp_path / "f"
    pictures(folder, "cat/1.png", "dog/1.png", ".git/x.png", "cat/.hidden.png", "__MACOSX/cat/1.png")
    (folder / "bird").mkdir()
    (folder / "cat" / "0001").write_bytes(b"x")
    (folder / "cat" / "bark.wav").write_bytes(b"x")
    (folder / "README.md").write_text("x")
    (folder / "classes.txt").write_text("x")
    got = read(folder)
    assert named(got) == {"cat/1.png": "cat", "dog/1.png": "dog"}
    assert got.remarks == [
        "1 recording is not read: the folder is taken for one of pictures",
        "1 file is without an ending and not read: cat/0001",
        "the folder bird holds no picture: its class has no row",
    ]


@pytest.mark.parametrize(
    "paths, says",
    [
        (("cat/1.png", "cat/more/2.png", "dog/1.png"), "at different depths, in 'cat' and 'cat/more'"),
        (("1.png", "cat/1.png"), "at different depths, in '.' and 'cat'"),
        (("a/left/1.png", "b/left/1.png"), "several folders are called 'left'"),
    ],
)
def test_folders_that_do_not_tell_the_class_are_refused(tmp_path, paths, says):
    pictures(tmp_path / "f", *paths)
    with pytest.raises(DataError, match=says) as caught:
        read(tmp_path / "f")
    assert "metadata.csv" in caught.value.remedy


def test_links_are_followed_but_not_in_a_circle(tmp_path):
    folder = tmp_path / "f"
    pictures(folder, "cat/1.png", "dog/1.png")
    pictures(tmp_path, "outside/3.png", "kept/2.png")
    os.symlink(tmp_path / "kept" / "2.png", folder / "cat" / "2.png")
    os.symlink(tmp_path / "outside", folder / "bird")
    os.symlink(folder, folder / "dog" / "again")
    os.symlink(tmp_path / "nothing.png", folder / "dog" / "gone.png")
    assert list(named(read(folder))) == ["bird/3.png", "cat/1.png", "cat/2.png", "dog/1.png", "dog/gone.png"]


def test_a_folder_with_rows_of_its_own_is_read_by_these(tmp_path):
    folder = tmp_path / "f"
    pictures(folder, "a.png", "b.png")
    (folder / "rows.jsonl").write_text('{"image": "a.png", "label": "x"}')
    assert [dict(r) for r in read(folder).records] == [{"image": "a.png", "label": "x"}]


def recordings(folder):
    for path in ("dog/1.wav", "cat/1.mp3", "cat/2.FLAC"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(b"RIFF")
    return folder


def test_recordings_are_rows_and_each_task_refuses_them_by_name(tmp_path):
    folder = recordings(tmp_path / "sounds")
    got = read(folder)
    assert [dict(r) for r in got.records][0] == {"audio": "cat/1.mp3", "label": "cat"}
    assert [r.shape for r in got.records] == ["audio-label"] * 3
    for name, reads in (("text-generation", tiny.tokenizer()), ("image-classification", None)):
        task = get_task(name)
        options = EncodeOptions(labels=("cat", "dog"), image=SMALL)
        report = check({"train": [Source(path="sounds")]}, task, reads, options, base=tmp_path)
        (error,) = report.errors
        assert f"which the task {name} does not read" in str(error) and "cat/1.mp3" in str(error)


def test_a_task_that_says_that_it_reads_recordings_gets_them(tmp_path):
    class Listening(type(get_task("text-generation"))):
        reads_audio = True

        def encode(self, record, tokenizer, options):
            return super().encode(record.replace(text=record["audio"], label=record["label"]), tokenizer, options)

    recordings(tmp_path / "sounds")
    report = check({"train": [Source(path="sounds")]}, Listening(), tiny.tokenizer(), EncodeOptions(), base=tmp_path)
    assert not report.errors and report.sources[0].counts["rows"] == 3


def run_check(folder):
    options = EncodeOptions(labels=("cat", "dog"), image=SMALL)
    source = Source(path=folder.name)
    return check({"train": [source]}, get_task("image-classification"), None, options, base=folder.parent)


def test_a_broken_picture_among_good_ones_is_named_by_its_path(tmp_path):
    folder = tmp_path / "pets"
    pictures(folder, "cat/1.png", "dog/1.png", "dog/3.png")
    (folder / "dog" / "2.png").write_bytes(b"no picture")
    (folder / "bird").mkdir()
    os.symlink(tmp_path / "nothing", folder / "cat" / "2.png")
    report = run_check(folder)
    assert [p.where for p in report.problems] == ["pets/cat/2.png", "pets/dog/2.png"]
    assert all(p.field == "image" and p.remedy for p in report.problems) and report.sources[0].counts["rows"] == 3
    assert report.cautions == ["pets: the folder bird holds no picture: its class has no row"]


def test_notices_name_pictures_by_their_paths(tmp_path):
    folder = tmp_path / "pets"
    for path in ("cat/1.png", "cat/2.png", "dog/1.png"):
        picture(folder / path, 7)
    (notice,) = [n for n in run_check(folder).notices if n.kind == "duplicate"]
    assert notice.where == ("pets/cat/2.png",) and notice.pairs == ("pets/cat/1.png",)


def encoded(folder, cache):
    options = EncodeOptions(labels=("cat", "dog"), image=SMALL)
    return stored(Source(path=folder.name), get_task("image-classification"), None, options, cache, base=folder.parent)


def test_the_cache_sees_pictures_names_and_metadata_change(tmp_path):
    folder, cache = tmp_path / "pets", tmp_path / "cache"
    pictures(folder, "cat/1.png", "dog/1.png")
    first = encoded(folder, cache)
    assert encoded(folder, cache).hash == first.hash and len(list((cache / "rows").iterdir())) == 1
    picture(folder / "cat" / "1.png", 99)
    second = encoded(folder, cache)
    assert second.hash != first.hash
    os.rename(folder / "dog" / "1.png", folder / "cat" / "2.png")
    picture(folder / "dog" / "5.png", 3)
    third = encoded(folder, cache)
    assert [r.fields["reference"] for r in third.rows] == ["cat", "cat", "dog"]
    (folder / "metadata.csv").write_text("file_name,label\ncat/1.png,dog\n")
    assert [r.fields["reference"] for r in encoded(folder, cache).rows] == ["dog"]
    (folder / "metadata.csv").write_text("file_name,label\ncat/1.png,cat\n")
    assert [r.fields["reference"] for r in encoded(folder, cache).rows] == ["cat"]


def test_the_key_of_a_stored_trial_sees_them_too(tmp_path):
    from tunewright.trials.trial_key import _content

    folder = tmp_path / "pets"
    pictures(folder, "cat/1.png", "dog/1.png")
    keys = [json.dumps(_content(Source(path="pets"), tmp_path))]
    picture(folder / "cat" / "1.png", 99)
    keys.append(json.dumps(_content(Source(path="pets"), tmp_path)))
    (folder / "metadata.csv").write_text("file_name,label\ncat/1.png,dog\n")
    keys.append(json.dumps(_content(Source(path="pets"), tmp_path)))
    picture(folder / "dog" / "1.png", 98)
    keys.append(json.dumps(_content(Source(path="pets"), tmp_path)))
    assert len(set(keys)) == 4


@pytest.mark.parametrize("mode", ["RGBA", "L", "LA", "P", "1", "I;16", "CMYK"])
def test_pictures_of_every_mode_lie_in_one_folder(tmp_path, mode):
    folder = tmp_path / "pets"
    pictures(folder, "cat/1.png", "dog/1.png")
    other = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    other = Image.fromarray(np.asarray(other).astype(np.uint16) * 257) if mode == "I;16" else other.convert(mode)
    other.save(folder / "dog" / ("2.tiff" if mode == "CMYK" else "2.png"))
    report = run_check(folder)
    assert not report.problems and report.sources[0].counts["rows"] == 3
