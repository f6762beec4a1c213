"""Pictures as a model of pictures in texts reads them: how many tokens each becomes, and the tensors beside the tokens,
made by the model's own processor (transformers' class).

Rows keep pictures as the files that they came in; what a model reads is made with each batch, and kept for the next one
as far as KEPT bytes reach. A picture's tensors do not hang on which others it is read with: each is prepared alone, and
several are laid side by side with zeros behind the smaller ones, which is what the processors do (compared on two
pictures when a model is read).
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tunewright.contract.records import RowProblem
from tunewright.errors import ModelError
from tunewright.tasks._pictures import read_image

WHERE = "processor_config.json"
KEPT = 1 << 28
"""Bytes of prepared pictures that are held for later batches."""
TOKENS = "mm_token_type_ids"
"""The model's input that says which tokens are a picture's (1)."""
_TEXTUAL = {"input_ids", "attention_mask", "token_type_ids", TOKENS, "text_replacement_offsets"}
_CHANNELS = 3


def picture_options(settings: Mapping[str, Any], tokenizer: Any, config: Any) -> dict[str, Any]:
    """How a model wants pictures, as JSON values, from its processor's settings (`loading.readers`): `marker`, the
    token that stands for a picture in a text; `tokens`, the ids that a picture's tokens have; `rowwise`, the inputs
    that have a dimension of rows (others have pictures, or patches, one behind the other); `images`, what prepares one.

    ModelError where the processor makes nothing of pictures in texts that could be read here, or names another token
    than the model's config.
    """
    told = getattr(config, "image_token_id", getattr(config, "image_token_index", None))
    return dict(_options(tokenizer, json.dumps(settings, sort_keys=True), told))


@lru_cache(maxsize=4)
def _options(tokenizer: Any, known: str, told: int | None) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads(known)
    kind, made = settings["kind"], None
    try:
        processor = _built(tokenizer, known)
        marker = getattr(processor, "image_token", None)
        noise = [_noise(0, 61, 40), _noise(1, 37, 52)]
        if marker is not None:
            made = processor(text=[f"a {marker} b {marker} c"], images=noise, return_tensors="np", **_OFFSETS)
            _replaced(made)
    except ImportError as error:
        what = f"the model's {kind} needs a package that is not installed: {_said(error)}"
        raise ModelError(what, where=WHERE, remedy="install it, and run this again") from error
    except Exception as error:  # whatever a processor raises
        raise ModelError(f"the model's {kind} makes nothing of two pictures: {_said(error)}", **_OTHER) from error
    if made is None:
        raise ModelError(f"the model's {kind} names no token for pictures in a text", **_OTHER)
    tokens = [int(i) for i in processor.image_token_ids if i is not None]
    if told is not None and told not in tokens:
        what = f"the processor's {marker} is token {tokens[0]}, and the model's config puts pictures at token {told}"
        raise ModelError(what, where=WHERE, remedy="use the processor and tokenizer that belong to the model")
    names = sorted(made.keys() - _TEXTUAL)
    alone = {n: np.asarray(v).shape[0] for n, v in made.items() if n in names}
    how = dict(processor._merge_kwargs(tokenizer_init_kwargs=tokenizer.init_kwargs)["images_kwargs"])
    images = {"kind": settings["image"]["kind"], "settings": settings["image"]["settings"], "how": _plain(how)}
    rowwise = [n for n in names if alone[n] == 1]
    out: dict[str, Any] = {
        "channels": _CHANNELS,
        "processor": settings,
        "marker": marker,
        "tokens": tokens,
        "rowwise": rowwise,
        "names": names,
        "images": images,
    }
    ours = side_by_side([[_prepared(p, images, names) for p in noise]], rowwise)
    for name in names:
        theirs = np.asarray(made[name])
        if ours[name].shape != theirs.shape or not np.allclose(ours[name].numpy(), theirs, rtol=1e-5, atol=1e-6):
            what = f"the model's {kind} makes other {name} of two pictures than of each alone"
            raise ModelError(what, **_OTHER)
    return out


_OTHER: dict[str, str] = {"where": WHERE, "remedy": "use a model such as LLaVA, SmolVLM, Idefics3 or Qwen2-VL"}
_OFFSETS: dict[str, Any] = {"return_text_replacement_offsets": True, "return_mm_token_type_ids": True}


def _plain(value: Any) -> dict[str, Any]:
    """Keywords that are plain values; those of tensors and devices are left to us."""
    kept = {k: getattr(v, "value", v) for k, v in value.items() if k not in ("return_tensors", "device")}
    out: dict[str, Any] = json.loads(json.dumps(kept))
    return out


def _noise(seed: int, height: int, width: int) -> Image.Image:
    drawn = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(drawn)


@lru_cache(maxsize=4)
def _built(tokenizer: Any, settings: str) -> Any:
    """The processor of a tokenizer and settings. A part that only videos need may be missing (torchvision makes it)."""
    import transformers

    about = json.loads(settings)
    cls = getattr(transformers, about["kind"])

    class Lenient(cls):  # type: ignore[misc, valid-type]
        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            own = super().check_argument_for_proper_class
            return type(None) if argument is None else own(argument_name, argument)

    parts = {"image_processor": _images(json.dumps(about["image"], sort_keys=True)), "tokenizer": tokenizer}
    parts |= {name: None for name in cls.get_attributes() if name not in parts}
    return Lenient(**parts, **about["settings"])


@lru_cache(maxsize=4)
def _images(settings: str) -> Any:
    from transformers.models.auto.image_processing_auto import get_image_processor_class_from_name

    about = json.loads(settings)
    return get_image_processor_class_from_name(about["kind"]).from_dict(about["settings"])


def _replaced(made: Mapping[str, Any]) -> list[str]:
    return [r["replacement"] for row in made["text_replacement_offsets"] for r in row]


def tokens_for(pictures: Sequence[Image.Image], tokenizer: Any, options: Mapping[str, Any]) -> list[str]:
    """What stands in a text for each picture. RowProblem for one that the processor cannot prepare."""
    if not pictures:
        return []
    processor = _built(tokenizer, json.dumps(options["processor"], sort_keys=True))
    text = " ".join([options["marker"]] * len(pictures))
    try:
        made = processor(text=[text], images=list(pictures), **_OFFSETS)
    except MemoryError:
        raise RowProblem("images", "there is not the memory to prepare it", "make it smaller, or take it out") from None
    except Exception as error:  # whatever a processor raises of an odd picture
        what = f"the model's {options['processor']['kind']} cannot prepare it: {_said(error)}"
        raise RowProblem("images", what, "give it a usual size, or take it out") from None
    return _replaced(made)


def opened(value: Any, base: str) -> tuple[bytes, Image.Image]:
    """A picture as a file's bytes, and as it is seen (upright, RGB). RowProblem for what is none, as `read_image`."""
    picture = read_image(value, base, _CHANNELS)
    if isinstance(value, Mapping):
        value = value.get("bytes") if value.get("bytes") is not None else value.get("path")
    if isinstance(value, str):
        value = (Path(base) / value).read_bytes()
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value), picture
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue(), picture


def packed(files: Sequence[bytes]) -> NDArray[np.uint8]:
    """Files in one vector: how many, how long each is, and they themselves."""
    head = np.array([len(files), *map(len, files)], "<i8").view(np.uint8)
    return np.concatenate([head, *(np.frombuffer(f, np.uint8) for f in files)])


def unpacked(vector: Any) -> list[bytes]:
    """The files of `packed`."""
    whole = np.asarray(vector, np.uint8).tobytes()
    count = int.from_bytes(whole[:8], "little")
    at, out = 8 * (count + 1), []
    for i in range(count):
        length = int.from_bytes(whole[8 * (i + 1) : 8 * (i + 2)], "little")
        out.append(whole[at : at + length])
        at += length
    return out


def pixel_inputs(rows: Sequence[Any], options: Mapping[str, Any]) -> dict[str, Tensor]:
    """The model's inputs of the pictures (vectors of `packed`) of rows; none where no row has one."""
    made = [[_kept(file, options["images"], options["names"]) for file in unpacked(row)] for row in rows]
    return side_by_side(made, options["rowwise"]) if any(made) else {}


def side_by_side(rows: Sequence[Sequence[Mapping[str, NDArray[Any]]]], rowwise: Sequence[str]) -> dict[str, Tensor]:
    """Inputs of single pictures [1, ...] as those of a batch of rows: rowwise ones [R, most of a row, ...], others one
    behind the other; smaller ones are filled with zeros behind.
    """
    first = next(p for row in rows for p in row)
    out: dict[str, Tensor] = {}
    for name in first:
        if name in rowwise:
            empty = np.zeros((1, 0, *first[name].shape[2:]), first[name].dtype)
            whole = [_joined([empty, *(p[name] for p in row)], 1) for row in rows]
            most = np.max([w.shape for w in whole], axis=0)
            out[name] = torch.from_numpy(np.concatenate([_filled(w, (1, *most[1:])) for w in whole]))
        else:
            out[name] = torch.from_numpy(_joined([p[name] for row in rows for p in row], 0))
    return out


def _joined(arrays: Sequence[NDArray[Any]], axis: int) -> NDArray[Any]:
    """Arrays one behind the other along an axis, filled to equal size along those behind it."""
    most = np.max([a.shape for a in arrays], axis=0)
    return np.concatenate([_filled(a, (*a.shape[: axis + 1], *most[axis + 1 :])) for a in arrays], axis)


def _filled(array: NDArray[Any], shape: Sequence[int]) -> NDArray[Any]:
    behind = [(0, int(most) - have) for have, most in zip(array.shape, shape, strict=True)]
    return np.pad(array, behind) if any(b for _, b in behind) else array


_held: OrderedDict[str, dict[str, NDArray[Any]]] = OrderedDict()


def _kept(file: bytes, images: Mapping[str, Any], names: Sequence[str]) -> dict[str, NDArray[Any]]:
    key = hashlib.blake2b(file + json.dumps(images, sort_keys=True).encode(), digest_size=16).hexdigest()
    if key in _held:
        _held.move_to_end(key)
        return _held[key]
    made = _prepared(read_image(file, "", _CHANNELS), images, names)
    _held[key] = made
    total = sum(a.nbytes for arrays in _held.values() for a in arrays.values())
    while total > KEPT and len(_held) > 1:
        total -= sum(a.nbytes for a in _held.popitem(last=False)[1].values())
    return made


def _prepared(picture: Image.Image, images: Mapping[str, Any], names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """What the model reads of one picture, by the names of its forward."""
    own = _images(json.dumps({k: images[k] for k in ("kind", "settings")}, sort_keys=True))
    made = own([picture], return_tensors="np", **images["how"])
    out = {n: np.asarray(made[n]) for n in names}
    return {n: a.astype(np.float32) if a.dtype.kind == "f" else a.astype(np.int64) for n, a in out.items()}


def _said(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
