"""Pictures as a model's own image processor prepares them: by a fast path of ours where that makes the same pixels,
else by the processor itself.

The fast path is `_pictures.fit` with the few numbers of `image_options`, which is what most processors do. Each class
has more settings than those (a crop by percentage, channels the other way round, a resize to more than the crop), so
the two are compared on made-up pictures of many sizes; where one pixel differs, rows are made by transformers' class,
with PIL, whatever else is installed.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tunewright.contract.records import RowProblem
from tunewright.errors import ModelError
from tunewright.tasks._pictures import fit

CLOSE = 1e-4
"""Largest difference of two pixels, normalised, that is rounding. One level of 255 is 0.004 at least."""
LARGEST = 1 << 24
"""Pixels of a resized picture that a processor may make before it crops."""
_SIZES = ((1.3, 1.9), (2.1, 1.5), (0.45, 0.3), (0.2, 2.5), (3.1, 0.15))
"""Heights and widths of pictures that are tried, in the model's own: larger, smaller, wide and tall."""


def followed(processor: Any, options: dict[str, Any], side: tuple[int, int], where: str) -> dict[str, Any]:
    """`options` of `image_options` if the fast path makes the pixels that `processor` makes, else `options` with
    `processor`: what makes them instead, as JSON values.

    `side`: height and width of a picture in the config, by which the shape of rows is told where a processor keeps
    a picture's own. ModelError at `where` for what makes no plain pixels.
    """
    known = json.dumps([_settings(processor), options], sort_keys=True)
    return dict(_followed(known, side, where))


@lru_cache(maxsize=8)
def _followed(known: str, side: tuple[int, int], where: str) -> dict[str, Any]:
    settings, options = json.loads(known)
    drawn = np.random.default_rng(0)
    height, width, channels = options["height"], options["width"], options["channels"]
    sizes = [(max(1, round(h * height)), max(1, round(w * width))) for h, w in _SIZES]
    pictures = [_noise(drawn, *size, channels) for size in (side, *sizes, (height, width), (1, 1))]
    try:
        theirs = [_made(settings, p) for p in pictures]
    except Exception as error:  # whatever a processor raises of a plain picture
        raise ModelError(
            f"the model's {settings['kind']} takes no plain picture: {_said(error)}",
            where=where,
            remedy="use a model with a processor of pictures alone",
        ) from error
    pixels = [made["pixel_values"] for made in theirs if "pixel_values" in made]
    if len(pixels) < len(theirs) or any(p.ndim != 3 or p.shape[0] != channels for p in pixels):
        raise _other(settings["kind"], f"not {channels} channels of pixels", where)
    if all(_close(_normalised(fit(p, options), options), own) for p, own in zip(pictures, pixels, strict=True)):
        return dict(options)
    if others := sorted(theirs[0].keys() - {"pixel_values"}):
        raise _other(settings["kind"], f"{', '.join(others)} beside pixels", where)
    whole = all(
        (eight := _eight_bits(settings, p)) is not None and _close(_normalised(eight, options), own)
        for p, own in zip(pictures, pixels, strict=True)
    )
    high, wide = pixels[0].shape[1:]
    return {**options, "height": high, "width": wide, "processor": {**settings, "whole": whole}}


def pixels_of(picture: Image.Image, options: dict[str, Any]) -> NDArray[np.uint8] | NDArray[np.float32]:
    """A picture's pixels [C, H, W]: uint8, to be scaled and normalised, or float32, as the model takes them.

    RowProblem for a picture of which the model's processor makes none, or some of another shape.
    """
    settings = options.get("processor")
    if settings is None:
        return fit(picture, options)
    shape = options["channels"], options["height"], options["width"]
    _check_strip(picture, settings)
    try:
        if settings["whole"]:
            pixels: Any = _eight_bits(settings, picture)
        else:
            pixels = _made(settings, picture)["pixel_values"]
    except MemoryError:
        raise RowProblem("image", "there is not the memory to prepare it", "make it smaller, or take it out") from None
    except Exception as error:  # whatever a processor raises of an odd picture
        reason = f"the model's {settings['kind']} cannot prepare it: {_said(error)}"
        raise RowProblem("image", reason, "give it the size of the model's pictures, or take it out") from None
    if pixels is None or pixels.shape != shape:
        got = "other pixels" if pixels is None else f"a picture of {pixels.shape[1]} x {pixels.shape[2]}"
        reason = f"the model's {settings['kind']} makes {got} of it, not of {shape[1]} x {shape[2]} (height x width)"
        raise RowProblem("image", reason, f"crop or resize it to {shape[1]} x {shape[2]}") from None
    return np.ascontiguousarray(pixels)


def _check_strip(picture: Image.Image, settings: dict[str, Any]) -> None:
    short = (settings["settings"].get("size") or {}).get("shortest_edge")
    ratio = max(picture.size) / min(picture.size)
    if short and short * short * ratio > LARGEST:
        reason = f"{picture.width} x {picture.height} is too narrow: its short side is brought to {short} pixels"
        raise RowProblem("image", reason, "crop it")


def _settings(processor: Any) -> dict[str, Any]:
    """What a processor is, as JSON values: its class, its settings, and whose code it is."""
    import transformers

    settings = json.loads(processor.to_json_string())
    return {"kind": type(processor).__name__, "settings": settings, "version": transformers.__version__}


@lru_cache(maxsize=4)
def _built(settings: str) -> Any:
    from transformers.models.auto.image_processing_auto import get_image_processor_class_from_name

    about = json.loads(settings)
    return get_image_processor_class_from_name(about["kind"]).from_dict(about["settings"])


def _made(settings: dict[str, Any], picture: Image.Image, **more: Any) -> dict[str, NDArray[np.float32]]:
    """All that the processor makes of one picture, without the dimension of batches."""
    own = _built(json.dumps({k: settings[k] for k in ("kind", "settings")}, sort_keys=True))
    made = own(images=picture, return_tensors="np", **more)
    return {name: np.asarray(value, np.float32)[0] for name, value in made.items()}


def _eight_bits(settings: dict[str, Any], picture: Image.Image) -> NDArray[np.uint8] | None:
    """The pixels before they are scaled and normalised, a quarter of the size; None where these are no whole numbers
    of 0..255.
    """
    pixels = _made(settings, picture, do_rescale=False, do_normalize=False)["pixel_values"]
    whole = pixels.clip(0, 255).astype(np.uint8)
    return whole if (whole == pixels).all() else None


def _noise(drawn: np.random.Generator, height: int, width: int, channels: int) -> Image.Image:
    pixels = drawn.integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels)


def _normalised(pixels: NDArray[np.uint8], options: dict[str, Any]) -> NDArray[np.float32]:
    mean, std = (np.asarray(options[n], np.float32)[:, None, None] for n in ("mean", "std"))
    return (pixels.astype(np.float32) * np.float32(options["scale"]) - mean) / std


def _close(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> bool:
    return ours.shape == theirs.shape and bool(np.abs(ours - theirs).max() <= CLOSE * max(1.0, np.abs(theirs).max()))


def _other(kind: str, what: str, where: str) -> ModelError:
    return ModelError(
        f"the model's {kind} makes {what}, which classifiers are not given here",
        where=where,
        remedy="use a model whose processor makes pixels alone",
    )


def _said(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def placed_as(numbers: NDArray[np.int16], options: dict[str, Any], absent: int) -> NDArray[np.int16]:
    """[H, W] numbers of 0 or more, or `absent`, of a picture's pixels, resized and cropped as `pixels_of` does the
    picture, by the nearest pixel; `absent` where the picture is widened.

    Each byte of the numbers goes through the same code as the picture, as a picture of its own.
    """
    codes = np.where(numbers == absent, 0, numbers.astype(np.int32) + 1)  # what is widened is filled with 0
    settings = options.get("processor")
    if settings is None:
        made = fit(Image.fromarray(codes), {**options, "resample": int(Image.Resampling.NEAREST)})[0].astype(np.int32)
    else:
        plain = {"resample": int(Image.Resampling.NEAREST), "do_rescale": False, "do_normalize": False}
        made = np.zeros((options["height"], options["width"]), np.int32)
        for shift in (0, 8) if codes.max() > 255 else (0,):
            byte = (codes >> shift & 255).astype(np.uint8)
            shown = Image.fromarray(byte if options["channels"] == 1 else np.repeat(byte[..., None], 3, 2))
            made += _made(settings, shown, **plain)["pixel_values"][0].astype(np.int32) << shift
    return np.where(made == 0, absent, made - 1).astype(np.int16)
