"""Pictures made worse on purpose, as ImageNet-C and CIFAR-10-C define it (Hendrycks, Dietterich 2019,
arXiv:1903.12261): noise, blur, contrast and brightness, each in five severities.

On pixels of 0..1, clipped to 0..1 afterwards and rounded down to 8 bits, with the numbers of CIFAR-10-C for pictures of
up to 64 pixels a side and those of ImageNet-C for larger ones:

    gaussian_noise   x + c n, n ~ N(0, 1) per value, drawn by (seed, corruption, row id)
    gaussian_blur    a Gaussian of standard deviation c pixels, over four deviations, edges repeated
    contrast         (x - m) c + m, m the mean of each channel
    brightness       c added to the HSV value max(R, G, B), hue and saturation as they were

Shapes: [C, H, W] uint8, C 1 or 3. Differs from the benchmark in: pictures are corrupted at the size that the model
reads, and grey ones too.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.contract.batch import Row
from tunewright.contract.method import wherever
from tunewright.errors import DataError, did_you_mean

Pixels = NDArray[np.float64]
SMALL = 64
"""Pixels of the longer side up to which the severities are CIFAR-10-C's."""


def gaussian_noise(x: Pixels, c: float, rng: np.random.Generator) -> Pixels:
    return x + c * rng.standard_normal(x.shape)


def gaussian_blur(x: Pixels, c: float, rng: np.random.Generator) -> Pixels:
    reach = int(4 * c + 0.5)
    at = np.arange(-reach, reach + 1)
    kernel = np.exp(-(at**2) / (2 * c * c))
    kernel /= kernel.sum()
    for axis in (1, 2):
        around = [(reach, reach) if a == axis else (0, 0) for a in range(3)]
        padded = np.pad(x, around, mode="edge")
        x = np.asarray(np.apply_along_axis(np.convolve, axis, padded, kernel, "valid"))
    return x


def contrast(x: Pixels, c: float, rng: np.random.Generator) -> Pixels:
    mean = x.mean((1, 2), keepdims=True)
    return (x - mean) * c + mean


def brightness(x: Pixels, c: float, rng: np.random.Generator) -> Pixels:
    value = x.max(0, keepdims=True)
    raised = np.clip(value + c, 0, 1)
    # hue and saturation stay: every channel grows as the value does; black has neither and becomes grey
    scale = np.divide(raised, value, out=np.zeros_like(value), where=value > 0)
    return np.where(value > 0, x * scale, raised)


CORRUPTIONS: dict[str, tuple[Callable[..., Pixels], Sequence[float], Sequence[float]]] = {
    "gaussian_noise": (gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10), (0.08, 0.12, 0.18, 0.26, 0.38)),
    "gaussian_blur": (gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1.0), (1, 2, 3, 4, 6)),
    "contrast": (contrast, (0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05)),
    "brightness": (brightness, (0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5)),
}
"""name -> (what it does, its numbers by severity for small pictures, and for larger ones)."""


def corrupted(pixels: NDArray[np.uint8], name: str, severity: int, key: str) -> NDArray[np.uint8]:
    """A picture [C, H, W] made worse; `key` decides what is drawn."""
    make, small, large = CORRUPTIONS[name]
    c = (small if max(pixels.shape[1:]) <= SMALL else large)[severity - 1]
    rng = np.random.default_rng(random.Random(f"{key}/{name}").getrandbits(64))
    worse = make(pixels.astype(np.float64) / 255, c, rng)
    return (worse.clip(0, 1) * 255).astype(np.uint8)


def stream(rows: Sequence[Row], corruptions: Sequence[str], seed: int) -> list[Row]:
    """The rows once for each corruption ("contrast:3", severity 5 where none is written), one after the other.

    Sources and ids say which. DataError for rows that are no pictures of 8 bits.
    """
    out = []
    for text in corruptions:
        name, severity = parsed(text)
        for row in rows:
            pixels: Any = row.fields.get("pixels")
            if getattr(pixels, "dtype", None) != np.uint8:
                raise DataError(
                    "only pictures whose pixels are still 8 bits can be corrupted",
                    where=f"{row.id}: test_time.corruptions",
                    remedy="take the corruptions out, or use a model whose processor only scales and normalises",
                )
            worse = corrupted(pixels, name, severity, f"{seed}/{wherever(row.id)}")
            called = f"{name} {severity}"
            out.append(replace(row, id=f"{row.id}@{called}", source=called, fields={**row.fields, "pixels": worse}))
    return out


def parsed(text: str) -> tuple[str, int]:
    """Name and severity of "contrast:3". ValueError says what is wrong and what to write."""
    name, colon, severity = text.partition(":")
    if name not in CORRUPTIONS:
        raise ValueError(f"no corruption is named '{name}'; {did_you_mean(name, CORRUPTIONS)}")
    if colon and severity not in ("1", "2", "3", "4", "5"):
        raise ValueError(f"'{text}' has no severity from 1 to 5; write {name}:3")
    return name, int(severity or 5)
