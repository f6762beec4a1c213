"""Corruptions against what the benchmark defines, by other means: closed forms, PIL's HSV, plain convolution."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest

from tunewright.contract.batch import Row
from tunewright.data.corruptions import CORRUPTIONS, corrupted, parsed, stream
from tunewright.errors import DataError


def picture(side: int = 32, channels: int = 3) -> np.ndarray:
    rng = np.random.default_rng(3)
    return rng.integers(0, 256, (channels, side, side), dtype=np.uint8)


def floats(pixels: np.ndarray) -> np.ndarray:
    return pixels.astype(np.float64) / 255


@pytest.mark.parametrize("severity", range(1, 6))
def test_contrast_shrinks_the_distance_from_each_channels_mean(severity: int) -> None:
    c = (0.75, 0.5, 0.4, 0.3, 0.15)[severity - 1]
    x = floats(picture())
    expected = np.stack([((ch - ch.mean()) * c + ch.mean()) * 255 for ch in x]).clip(0, 255).astype(np.uint8)
    assert np.abs(corrupted(picture(), "contrast", severity, "k").astype(int) - expected).max() <= 1


@pytest.mark.parametrize("severity", [1, 5])
def test_brightness_adds_to_the_value_of_hsv(severity: int) -> None:
    c = (0.05, 0.1, 0.15, 0.2, 0.3)[severity - 1]
    small = picture(6)
    small[:, 0, 0] = 0  # black
    given = floats(corrupted(small, "brightness", severity, "k"))
    for y in range(6):
        for x in range(6):
            h, s, v = colorsys.rgb_to_hsv(*floats(small)[:, y, x])
            assert given[:, y, x] == pytest.approx(colorsys.hsv_to_rgb(h, s, min(1.0, v + c)), abs=1.01 / 255)


def test_noise_has_the_deviation_that_it_is_said_to_have_and_is_drawn_by_its_key() -> None:
    grey = np.full((3, 64, 64), 128, dtype=np.uint8)
    for severity, c in enumerate((0.04, 0.06, 0.08, 0.09, 0.10), 1):
        noise = floats(corrupted(grey, "gaussian_noise", severity, "k")) - 128 / 255
        assert noise.std() == pytest.approx(c, rel=0.03) and abs(noise.mean()) < 0.01
    one, two, other = (corrupted(grey, "gaussian_noise", 3, k) for k in ("a", "a", "b"))
    assert (one == two).all() and (one != other).any()


def test_blur_is_a_gaussian_of_its_deviation_with_edges_repeated() -> None:
    dot = np.zeros((1, 33, 33), dtype=np.uint8)
    dot[0, 16, 16] = 255
    x = floats(corrupted(dot, "gaussian_blur", 5, "k"))[0]
    at = np.arange(33) - 16
    gauss = np.exp(-(at**2) / 2)
    expected = np.outer(gauss, gauss) / gauss.sum() ** 2
    assert np.abs(x - expected).max() < 1.01 / 255
    flat = np.full((3, 20, 20), 77, dtype=np.uint8)
    assert np.abs(corrupted(flat, "gaussian_blur", 5, "k").astype(int) - 77).max() <= 1


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_larger_pictures_take_the_numbers_of_imagenet_c_and_worse_is_worse(name: str) -> None:
    for side in (32, 80):
        x = picture(side)
        apart = [np.abs(floats(corrupted(x, name, s, "k")) - floats(x)).mean() for s in range(1, 6)]
        assert apart == sorted(apart) and apart[0] > 0, apart
    grey = corrupted(picture(32, 1), name, 5, "k")
    assert grey.shape == (1, 32, 32) and grey.dtype == np.uint8


def test_a_stream_holds_the_rows_once_for_each_corruption() -> None:
    rows = [Row(f"r:{i}", "r", (), [1.0], i, {"pixels": picture()}) for i in range(3)]
    made = stream(rows, ["contrast:2", "gaussian_noise"], seed=0)
    assert [r.id for r in made] == [f"r:{i}@{c}" for c in ("contrast 2", "gaussian_noise 5") for i in range(3)]
    assert [r.label for r in made] == [0, 1, 2, 0, 1, 2] and {r.source for r in made} == {
        "contrast 2",
        "gaussian_noise 5",
    }
    assert (made[0].fields["pixels"] == corrupted(picture(), "contrast", 2, "")).all()
    assert (made[3].fields["pixels"] != made[4].fields["pixels"]).any(), "each row draws its own noise"
    assert (rows[0].fields["pixels"] == picture()).all()
    others = stream(rows, ["gaussian_noise"], seed=1)
    assert (others[0].fields["pixels"] != made[3].fields["pixels"]).any()


def test_what_is_no_picture_of_8_bits_is_refused() -> None:
    with pytest.raises(DataError, match="still 8 bits"):
        stream([Row("r:0", "r", (), [1.0], 0, {"pixels": picture().astype(np.float32)})], ["contrast"], 0)


@pytest.mark.parametrize(
    ("text", "says"), [("blur", "gaussian_blur"), ("contrast:0", "1 to 5"), ("contrast:x", "1 to 5")]
)
def test_a_name_that_is_none_is_told_what_to_write(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parsed(text)
    assert parsed("contrast:3") == ("contrast", 3) and parsed("contrast") == ("contrast", 5)


@pytest.mark.parametrize("text", ["contrast:", "contrast:6", "contrast:x"])
def test_a_severity_is_from_1_to_5_and_5_where_none_is_written(text: str) -> None:
    assert parsed("contrast") == ("contrast", 5) and parsed("contrast:1") == ("contrast", 1)
    with pytest.raises(ValueError, match="no severity from 1 to 5"):
        parsed(text)
