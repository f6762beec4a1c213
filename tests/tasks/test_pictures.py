"""Pictures of every mode, range, orientation and size come out as they were meant, or are refused by name."""

from __future__ import annotations

import io
import os

import numpy as np
import pytest
from PIL import Image

from tunewright.contract.records import RowProblem
from tunewright.data.read import read_all
from tunewright.errors import DataError
from tunewright.recipe import Source
from tunewright.tasks import _pictures
from tunewright.tasks._pictures import fit, read_image

RAMP = np.linspace(0, 255, 8).round().astype(np.uint8)


def encoded(picture: Image.Image, kind: str = "PNG", **more) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **more)
    return buffer.getvalue()


def ramp(dtype, top) -> Image.Image:
    """Black to white in eight steps."""
    return Image.fromarray(np.tile(np.linspace(0, top, 8).astype(dtype), (8, 1)))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "value",
    [
        encoded(ramp(np.uint8, 255)),
        encoded(ramp(np.uint16, 65535)),
        encoded(ramp(np.uint16, 65535), "TIFF"),
        encoded(ramp(np.uint16, 65535), "PPM"),
        encoded(ramp(np.float32, 1), "TIFF"),
        encoded(ramp(np.float32, 255), "TIFF"),
        encoded(ramp(np.int32, 255), "TIFF"),
        encoded(ramp(np.uint8, 255).convert("P")),
        encoded(ramp(np.uint8, 255).convert("LA")),
        encoded(ramp(np.uint8, 255).convert("RGBA"), "WEBP", lossless=True),
        encoded(ramp(np.uint8, 255).convert("RGB").convert("CMYK"), "TIFF"),
        ramp(np.uint8, 255),
        ramp(np.float32, 1),
        np.tile(np.linspace(0, 1, 8), (8, 1)),
        np.tile(np.linspace(0, 1, 8, dtype=np.float32), (8, 1)),
        np.tile(np.linspace(0, 255, 8), (8, 1)),
        np.tile(RAMP, (8, 1))[:, :, None],
        np.tile(RAMP, (8, 1))[:, :, None].repeat(3, 2).tolist(),
        {"bytes": encoded(ramp(np.uint16, 65535)), "path": "x.png"},
    ],
)
def test_a_ramp_is_the_same_ramp_in_every_mode_and_range(value, channels):
    got = np.asarray(read_image(value, ".", channels))
    assert got.shape == ((8, 8) if channels == 1 else (8, 8, 3)) and got.dtype == np.uint8
    assert np.abs(got.reshape(8, 8, -1).astype(int) - RAMP[None, :, None]).max() <= 1


def test_white_is_white_where_a_tiff_counts_from_white():
    wide = encoded(Image.fromarray(np.array([[0, 65535]], np.uint16)), "TIFF", tiffinfo={262: 0})
    assert np.asarray(read_image(wide, ".", 1)).tolist() == [[255, 0]]


@pytest.mark.parametrize(
    "value, expected", [([[True, False]], [[255, 0]]), ([[1, 0]], [[1, 0]]), ([[0.0, 1.0]], [[0, 255]])]
)
def test_ones_are_white_where_their_type_says_so(value, expected):
    assert np.asarray(read_image(value, ".", 1)).tolist() == expected


UPRIGHT = (
    lambda a: a,
    np.fliplr,
    lambda a: np.rot90(a, 2),
    np.flipud,
    np.transpose,
    lambda a: np.rot90(a, -1),
    lambda a: np.rot90(a.T, 2),
    np.rot90,
)  # by orientation, from 1: how the stored rows are turned to be seen


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_pictures_stand_upright(orientation, kind, tmp_path):
    stored = np.kron(np.random.default_rng(0).integers(0, 2, (2, 3), dtype=np.uint8) * 255, np.ones((8, 8), np.uint8))
    picture = Image.fromarray(stored)
    exif = picture.getexif()
    exif[0x0112] = orientation
    picture.save(tmp_path / "p", kind, exif=exif)
    right = UPRIGHT[orientation - 1](stored)
    raw = (tmp_path / "p").read_bytes()
    for value in ("p", raw, Image.open(io.BytesIO(raw))):
        got = np.asarray(read_image(value, str(tmp_path), 1))
        assert got.shape == right.shape and np.abs(got.astype(int) - right).max() < 9


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_shows_white_whatever_colour_it_hides(mode):
    alpha = np.array([[0, 255, 128]], np.uint8)
    if mode == "P":
        picture = Image.fromarray(np.array([[0, 1, 1]], np.uint8), "P")
        picture.putpalette([200, 0, 0, 40, 40, 40])
        value, right = encoded(picture, transparency=0), [255, 40, 40]
    else:
        bands = [np.full((1, 3), 40, np.uint8)] * (len(mode) - 1)
        value, right = encoded(Image.fromarray(np.stack([*bands, alpha], -1), mode)), [255, 40, 147]
    got = np.asarray(read_image(value, ".", 3)).astype(int)
    assert np.abs(got - np.array(right)[None, :, None]).max() <= 1


def test_pictures_of_too_many_pixels_are_refused_before_they_are_opened():
    for value in (encoded(Image.new("1", (20_000, 10_000))), np.broadcast_to(np.uint8(0), (20_000, 10_000))):
        with pytest.raises(RowProblem, match="too large: at most 178,956,970"):
            read_image(value, ".", 3)


def test_a_long_strip_is_resized_no_further_than_the_crop_shows(monkeypatch):
    strip = Image.fromarray(np.random.default_rng(0).integers(0, 255, (4, 400, 3), dtype=np.uint8))
    options = {"height": 16, "width": 16, "shortest": 16, "channels": 3, "resample": 2}
    whole = fit(strip, options)
    monkeypatch.setattr(_pictures, "_LARGE", 0)
    assert np.abs(fit(strip, options).astype(int) - whole).max() <= 1
    monkeypatch.undo()
    assert fit(Image.new("RGB", (1, 60_000), (9, 9, 9)), {**options, "shortest": 224, "height": 224}).max() == 9


@pytest.mark.parametrize("damage", ["cut", "chunk", "zeros", "header"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"])
def test_damaged_pictures_are_bad_rows(kind, damage):
    whole = bytearray(encoded(ramp(np.uint8, 255).resize((64, 64)).convert("RGB"), kind))
    if damage == "cut":
        whole = whole[: len(whole) // 3]
    elif damage == "header":
        whole[:4] = b"none"
    elif damage == "zeros":
        whole[20:] = bytes(len(whole) - 20)
    else:
        whole[33:60] = b"\xff" * 27
    try:
        read_image(bytes(whole), ".", 3)
    except RowProblem as problem:
        assert problem.field == "image" and problem.remedy


@pytest.mark.parametrize(
    "value",
    [
        "folder",
        "pipe",
        "\0",
        "x" * 5000,
        {"path": None},
        {},
        {"path": 5},
        None,
        "",
        [[-1.0]],
        [[256]],
        [["a"]],
        [[0.5, 1e300]],
    ],
)
def test_what_is_no_picture_is_a_bad_row(value, tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(RowProblem) as caught:
        read_image(value, str(tmp_path), 3)
    assert caught.value.field == "image" and caught.value.remedy


def test_no_picture_is_a_program(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.eps")
    with pytest.raises(RowProblem, match="cannot be read as a picture"):
        read_image("a.eps", str(tmp_path), 3)


@pytest.mark.parametrize(
    "x, expected",
    [
        (np.linspace(0, 1, 16, dtype=np.float32), [0, 255]),
        (np.linspace(0, 255, 16), [0, 255]),
        (np.arange(16) % 2 > 0, [0, 255]),
        ((np.arange(16) % 2).astype(np.uint8), [0, 255]),
        (np.linspace(0, 65535, 16).astype(np.uint16), [0, 255]),
        (np.arange(16), [0, 15]),
    ],
)
def test_pixels_of_an_npz_file_are_of_the_range_of_them_all(x, expected, tmp_path):
    np.savez(tmp_path / "p.npz", x=np.sort(x).reshape(4, 2, 2), y=np.arange(4))
    rows = [r["image"] for r in read_all(Source(path="p.npz"), tmp_path).records]
    assert [rows[0].min(), rows[-1].max()] == expected and rows[0].dtype == np.uint8
    assert rows[0].max() <= 64 or len(set(x.tolist())) == 2  # a dark picture stays dark


@pytest.mark.parametrize(
    "arrays, says",
    [
        ({"x": np.full((2, 2, 2), -0.5), "y": np.arange(2)}, "0..255"),
        ({"x": np.full((2, 2, 2), 300), "y": np.arange(2)}, "0..255"),
        ({"x": np.full((2, 2, 2), np.nan), "y": np.arange(2)}, "not finite"),
        ({"x": np.array(5), "y": np.arange(2)}, "holds x"),
        ({"x": np.zeros((2, 2, 2)), "y": np.eye(2)}, "holds x"),
        ({"x": np.array([[["a"]]]), "y": np.arange(1)}, "npz"),
    ],
)
def test_npz_files_of_other_pixels_are_refused(arrays, says, tmp_path):
    np.savez(tmp_path / "p.npz", **arrays)
    with pytest.raises(DataError, match=says):
        read_all(Source(path="p.npz"), tmp_path)


def test_labels_of_an_npz_file_are_not_cut_to_whole_numbers_nor_to_the_names_there(tmp_path):
    np.savez(tmp_path / "p.npz", x=np.zeros((3, 2, 2)), y=np.array([0.7, 1.0, 2.0]), names=np.array(["no", "yes"]))
    read = read_all(Source(path="p.npz"), tmp_path)
    assert [r["label"] for r in read.records] == ["yes"] and len(read.problems) == 2
    np.savez(tmp_path / "q.npz", x=np.zeros((2, 2, 2)), y=np.array(["cat", "dog"]))
    assert [r["label"] for r in read_all(Source(path="q.npz"), tmp_path).records] == ["cat", "dog"]
