"""Pictures with their pixels in another order, the same for all: permuted MNIST (Goodfellow et al. 2013,
arXiv:1312.6211) and its kin, in which a network has to learn each order as a task.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.contract.records import RowProblem


@lru_cache(maxsize=64)
def order_of(seed: int, pixels: int) -> NDArray[np.int64]:
    """[pixels] where each place's pixel comes from, equal for equal seeds and sizes."""
    return np.random.default_rng([seed, pixels]).permutation(pixels)


def reordered(image: Any, seed: int) -> NDArray[Any]:
    """Pixels [H, W] or [H, W, channels] with all places of the picture in the order that the seed draws.

    RowProblem for a picture that is a file: its size is not known before it is read and cut.
    """
    if image is None or isinstance(image, str | bytes | dict):
        what = "no picture" if image is None else "a picture in a file"
        raise RowProblem(
            "image",
            f"the row has {what}, and its pixels are to be reordered",
            "give pixels: an npz, or [height][width]",
        )
    pixels = np.asarray(image)
    if pixels.ndim not in (2, 3):
        raise RowProblem("image", f"pixels of shape {pixels.shape} are no picture", "write [height][width]")
    flat = pixels.reshape(pixels.shape[0] * pixels.shape[1], *pixels.shape[2:])
    return np.ascontiguousarray(flat[order_of(seed, len(flat))].reshape(pixels.shape))
