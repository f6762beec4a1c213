"""Whether pictures are prepared here as a model's own image processor prepares them, by trying it.

Rows hold small pictures of 8 bits that `_pictures.fit` makes from the few numbers of `image_options`. Processors have
more settings than those (a crop by percentage, channels the other way round, a resize to more than the crop), and each
class has its own; what is not followed would move every figure, of the base too, without a word.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tunewright.errors import ModelError
from tunewright.tasks._pictures import fit

CLOSE = 0.05
"""Mean difference, in the normalised pixels' own units, that libraries' ways to resize a smooth picture stay below."""


def check_processor(processor: Any, options: dict[str, Any], where: str) -> None:
    """ModelError, at `where`, for a processor that makes other pixels of two smooth pictures than `fit` does."""
    kind = type(processor).__name__
    for high, wide in ((1.3, 1.9), (2.1, 1.5)):
        picture = _smooth(round(options["height"] * high), round(options["width"] * wide), options["channels"])
        ours = _normalised(fit(picture, options), options)
        try:
            theirs = np.asarray(processor(images=picture, return_tensors="np")["pixel_values"][0], np.float32)
        except Exception as error:  # whatever a processor raises of a plain picture
            said = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            raise ModelError(
                f"the model's {kind} takes no plain picture: {said}",
                where=where,
                remedy="use a model with a processor of pictures alone",
            ) from error
        if theirs.shape != ours.shape:
            differs = f"pictures of shape {theirs.shape}, here {ours.shape}"
        elif (apart := float(np.abs(theirs - ours).mean())) > CLOSE:
            differs = f"other pixels, by {apart:.2f} on average"
        else:
            continue
        raise ModelError(
            f"the model's {kind} prepares pictures in a way that is not followed here: it makes {differs}",
            where=where,
            remedy="prepare the pictures yourself, and save a plain ViTImageProcessor with the model",
        )


def _smooth(height: int, width: int, channels: int) -> Image.Image:
    """A few waves across and down, another in each channel: a shift, a crop or exchanged channels show."""
    down, across = np.mgrid[0:height, 0:width] / np.array([[[height]], [[width]]])
    waves = [np.sin(2 * np.pi * ((2 + c) * across + (3 - c) * down + c / 4)) for c in range(channels)]
    pixels = np.rint(127.5 + 127.5 * np.stack(waves, -1)).astype(np.uint8)
    return Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels)


def _normalised(pixels: NDArray[np.uint8], options: dict[str, Any]) -> NDArray[np.float32]:
    mean, std = (np.asarray(options[n], np.float32)[:, None, None] for n in ("mean", "std"))
    return (pixels.astype(np.float32) * options["scale"] - mean) / std
