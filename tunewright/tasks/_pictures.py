"""Pictures as whoever made them sees them: upright, with every mode and range of pixels brought to 8 bits, and what is
transparent on white. Reading them never runs a program and never takes more memory than a large photograph.
"""

from __future__ import annotations

import io
import re
import stat
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from tunewright.contract.records import RowProblem
from tunewright.tasks._parts import FEATURES

if TYPE_CHECKING:
    from tunewright.contract.task import Task

FORMATS = frozenset(
    "AVIF BMP DIB GIF ICO JPEG JPEG2000 MPO PCX PNG PPM QOI SGI TGA TIFF WEBP".split()
)  # of pixels alone: an EPS, for one, is a program that Ghostscript would run
SEEING = frozenset(
    {"AutoModelForImageClassification", "AutoModelForObjectDetection", "AutoModelForSemanticSegmentation"}
)
"""Classes of transformers whose models read a picture and no text."""


def sees_alone(task: Task) -> bool:
    """Whether a task's models read a picture and no text."""
    return task.auto_class in SEEING or task.is_a(FEATURES)


MOST = 178_956_970
"""Pixels of the largest picture that is opened (half a gigabyte in colour): where PIL speaks of a bomb."""
_LARGE = 1 << 22  # pixels of a resized picture from which only what the crop shows is made
_MIN_IS_WHITE = 262


def read_image(value: Any, base: str, channels: int) -> Image.Image:
    """A picture from a path, encoded bytes, a mapping with `bytes` or `path` (as `datasets` writes it), a PIL picture,
    or pixels [H, W] or [H, W, 1, 3 or 4], as "L" where `channels` is 1 and as "RGB" otherwise.

    Pixels are whole numbers of 0..255, True and False, or floats of 0..1 or 0..255. RowProblem for what is none.
    """
    if isinstance(value, dict):
        value = value.get("bytes") if value.get("bytes") is not None else value.get("path")
    with said_of("image", value):
        return _eight_bits(opened(value, base), "L" if channels == 1 else "RGB")


@contextmanager
def said_of(field: str, value: Any) -> Iterator[None]:
    """Inside, whatever a decoder raises of a value becomes a RowProblem of its column."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            yield
    except RowProblem as problem:
        raise RowProblem(field, problem.reason, problem.remedy) from None
    except FileNotFoundError:
        raise RowProblem(field, f"no file '{value}'", "write the path relative to the data file") from None
    except MemoryError:
        raise RowProblem(field, "there is not the memory to open it", "make it smaller, or take it out") from None
    except Image.DecompressionBombError:
        large = _too_large()
        raise RowProblem(field, large.reason, large.remedy) from None
    except Exception as error:  # decoders of damaged files raise whatever they come upon
        said = re.sub(r" <_io.*>", "", str(error).strip() or type(error).__name__).splitlines()[0][:300]
        what = "PNG or JPEG" if field == "image" else "PNG"
        raise RowProblem(field, f"cannot be read as a picture: {said}", f"write a {what}") from None


def opened(value: Any, base: str) -> Image.Image:
    """A picture as its decoder gives it, loaded. Raises what decoders raise, and RowProblem."""
    if isinstance(value, str):
        path = Path(base) / value
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for ever
            raise RowProblem("image", f"'{value}' is no file", "write the path of a PNG or JPEG")
        with path.open("rb") as file:  # given a path, PIL maps TIFFs and mixes up their sides when it turns them
            return _decoded(file)
    if isinstance(value, bytes | bytearray | memoryview):
        return _decoded(io.BytesIO(value))
    if isinstance(value, Image.Image):
        return value
    return Image.fromarray(_pixels(value))


def _decoded(source: IO[bytes]) -> Image.Image:
    with Image.open(source, formats=_formats()) as picture:
        picture.load()
        return picture


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(sorted(FORMATS & set(Image.OPEN)))


def _too_large() -> RowProblem:
    return RowProblem("image", f"the picture is too large: at most {MOST:,} pixels are read", "make it smaller")


def _eight_bits(picture: Image.Image, mode: str) -> Image.Image:
    """A picture upright, in 8 bits a channel, without transparency."""
    picture.load()  # a TIFF is turned by it, and would be turned again
    upright = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I;16"):
        wide = np.asarray(upright).astype(np.float64)
        if picture.format == "TIFF" and getattr(picture, "tag_v2", {}).get(_MIN_IS_WHITE) == 0:
            wide = 65535 - wide
        upright = Image.fromarray(_scaled(wide, 65535))
    elif picture.mode == "I":  # PNG and PGM of 16 bits, or 32 bits of no range that is agreed
        wide = np.asarray(upright).astype(np.float64)
        known = picture.format in ("PNG", "PPM")
        upright = Image.fromarray(_scaled(wide, 65535) if known else in_range(np.asarray(upright)))
    elif picture.mode == "F":
        upright = Image.fromarray(in_range(np.asarray(upright)))
    elif picture.mode == "La":
        upright = upright.convert("LA")
    if upright.has_transparency_data:
        shown = upright.convert("RGBA")
        white = Image.new("RGBA", shown.size, (255, 255, 255, 255))
        upright = Image.alpha_composite(white, shown).convert("RGB")
    return upright.convert(mode)


def _pixels(value: Any) -> NDArray[np.uint8]:
    """Pixels as PIL takes them: uint8 [H, W], [H, W, 3] or [H, W, 4]."""
    try:
        pixels = np.asarray(value)
    except (TypeError, ValueError):
        pixels = np.asarray(None)
    if pixels.dtype.kind not in "biuf":
        what = "a path or a list of rows of pixels is needed"
        raise RowProblem("image", what, "write [[0, 255, ...], ...] with rows of equal length")
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if pixels.ndim not in (2, 3) or pixels.ndim == 3 and pixels.shape[2] not in (3, 4) or not pixels.size:
        raise RowProblem(
            "image", f"pixels of shape {pixels.shape} are no picture", "write [height][width] or [height][width][3]"
        )
    if pixels.shape[0] * pixels.shape[1] > MOST:
        raise _too_large()
    return in_range(pixels)


def in_range(pixels: NDArray[Any], *, many: bool = False, span: tuple[float, float] | None = None) -> NDArray[np.uint8]:
    """Pixels of any type as uint8 of 0..255, by the range that they are in; RowProblem for what is in none.

    `many`: the pixels of many pictures. Where the largest of all these is 1, whole numbers are of 0..1, too; of a
    single picture they are not, as it may be all but black. `span`: the least and the largest of them, where these
    pixels are a part.
    """
    if pixels.dtype == np.uint8 and not many:
        return pixels
    least, most = span or (float(pixels.min()), float(pixels.max()))  # NaN, where there is one
    if not 0 <= least <= most <= 255:
        is_16 = pixels.dtype == np.uint16
        if many and is_16:
            return _scaled(pixels, 65535)
        found = f"they lie in {least:g}..{most:g}" if np.isfinite([least, most]).all() else "some are not finite"
        raise RowProblem(
            "image", f"pixels must lie in 0..255: {found}", "write whole numbers from 0 to 255, or floats from 0 to 1"
        )
    if most <= 1 and (many or pixels.dtype.kind in "bf"):
        return _scaled(pixels, 1)
    return pixels.astype(np.uint8) if pixels.dtype.kind in "biu" else _scaled(pixels, 255)


def _scaled(pixels: NDArray[Any], top: int) -> NDArray[np.uint8]:
    return np.rint(pixels * (255 / top)).clip(0, 255).astype(np.uint8)


def fit(picture: Image.Image, options: dict[str, Any]) -> NDArray[np.uint8]:
    """Resize (and crop) a picture: uint8 [C, H, W]."""
    height, width, resample = options["height"], options["width"], Image.Resampling(options["resample"])
    if options["shortest"]:
        short, long = options["shortest"], int(options["shortest"] * max(picture.size) / min(picture.size))
        size = (short, long) if picture.width <= picture.height else (long, short)
        left, top = (size[0] - width) // 2, (size[1] - height) // 2
        box = (left, top, left + width, top + height)
        if short * long <= _LARGE or left < 0 or top < 0:
            picture = picture.resize(size, resample).crop(box)
        else:
            picture = picture.resize((width, height), resample, box=_in_source(box, size, picture.size))
    elif picture.size != (width, height):
        picture = picture.resize((width, height), resample)
    pixels = np.asarray(picture)
    return np.ascontiguousarray(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))


def _in_source(
    box: Sequence[int], resized: tuple[int, int], size: tuple[int, int]
) -> tuple[float, float, float, float]:
    """A box of a resized picture in the coordinates of the picture itself."""
    across, down = size[0] / resized[0], size[1] / resized[1]
    return box[0] * across, box[1] * down, box[2] * across, box[3] * down
