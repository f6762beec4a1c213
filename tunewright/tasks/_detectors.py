"""Models that find things on pictures: pictures as their processors prepare them, a forward, and the model's own loss.

A picture is resized as the model's processor says and never padded: pictures of one size are read together, others
apart, so that no row's answer hangs on which rows lie beside it. The loss is the one that transformers computes inside
the model's forward (predictions and boxes are matched one to one by the least total cost, then compared), of each
picture by itself.

Shapes: R rows, Q boxes that a model proposes for a picture, V logits a box.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from tunewright.contract.batch import Batch
from tunewright.contract.records import RowProblem
from tunewright.errors import ModelError
from tunewright.models import context
from tunewright.tasks import _processor
from tunewright.tasks.base import in_type
from tunewright.tasks.image_classification import image_options

TOGETHER = frozenset({"ForObjectDetectionLoss", "DeformableDetrForObjectDetectionLoss"})
"""Losses of transformers that take logits [R, Q, V], boxes [R, Q, 4] and, of each decoder layer, [layers, R, Q, .]: a
picture's own part is known. Models with another are run a picture at a time where a loss is asked for.
"""
_TRIED = ((60, 90), (90, 60), (41, 160), (200, 200))


@dataclass
class Said:
    """What a model says of pictures: `logits` [R, Q, V], `boxes` [R, Q, 4] (middle and size, in shares), `states`
    [R, Q, D] of the proposals, and `losses` [R].
    """

    logits: Tensor
    boxes: Tensor
    states: Tensor
    losses: Tensor
    hidden: tuple[Tensor, ...] | None = None


def refuse(config: Any, where: str) -> None:
    """ModelError for a model that transformers makes of timm's parts: what these are is said by a name, which may stand
    for weights and code of elsewhere.
    """
    inner = getattr(config, "backbone_config", None)
    if getattr(inner, "model_type", None) == "timm_backbone" or getattr(config, "use_timm_backbone", False):
        name = getattr(inner, "backbone", None) or getattr(config, "backbone", None)
        raise ModelError(
            f"the model's body is timm's '{name}', and parts of timm are not used here",
            where=where,
            remedy="use a model whose body is transformers' own: RT-DETR, YOLOS, or a DETR with a ResNet "
            "(facebook/detr-resnet-50 has one at revision: no_timm)",
        )


def count_of(config: Any) -> int:
    """How many boxes a model proposes for a picture."""
    return int(config.num_detection_tokens if hasattr(config, "num_detection_tokens") else config.num_queries)


def has_nothing(config: Any) -> bool:
    """Whether a model has one more logit than classes, for nothing; else it says of each class whether it is there."""
    return hasattr(config, "eos_coefficient") and not any(hasattr(config, n) for n in _FOCAL)


def learns_proposals(config: Any) -> bool:
    """Whether each proposal comes from a vector of its own that is learnt; else they come from the picture, so that the
    places of two models' proposals do not belong together.
    """
    return config.model_type in _LEARNT and not getattr(config, "two_stage", False)


_FOCAL = ("focal_alpha", "focal_loss_alpha")
_LEARNT = ("detr", "table-transformer", "yolos", "conditional_detr", "dab-detr", "deformable_detr")


def detects(processor: Any) -> bool:
    """Whether a processor prepares pictures for models that find things."""
    return hasattr(processor, "post_process_object_detection")


def prepared_as(processor: Any, config: Any, where: str) -> dict[str, Any]:
    """How such a processor prepares pictures, as `image_options` says it, with `detector`: the processor's settings.

    ModelError where it pads every picture to a size, or takes no plain picture.
    """
    plain = image_options(config=config)
    if getattr(processor, "do_pad", False) and getattr(processor, "pad_size", None):
        what = "the model's processor pads every picture to a size (pad_size), and boxes are shares of the whole then"
        raise ModelError(what, where=where, remedy="take pad_size out: pictures of one size are read together anyway")
    mean, std = getattr(processor, "image_mean", None), getattr(processor, "image_std", None)
    if getattr(processor, "do_normalize", True) and mean is not None and std is not None:
        plain |= {"mean": [float(x) for x in mean], "std": [float(x) for x in std]}
    else:
        plain |= {"mean": [0.0] * plain["channels"], "std": [1.0] * plain["channels"]}
    plain["scale"] = float(processor.rescale_factor) if getattr(processor, "do_rescale", True) else 1.0
    settings = _processor._settings(processor)
    return {**plain, "detector": {**settings, "whole": _whole(json.dumps([settings, plain], sort_keys=True), where)}}


@lru_cache(maxsize=8)
def _whole(known: str, where: str) -> bool:
    """Whether a processor's pixels are whole numbers of 0..255 that are then scaled and normalised."""
    settings, plain = json.loads(known)
    drawn, found, failed = np.random.default_rng(0), list[bool](), None
    for high, wide in _TRIED:
        picture = _processor._noise(drawn, high, wide, plain["channels"])
        try:
            own = _processor._made(settings, picture, **_UNPADDED)["pixel_values"]
            eight = _eight_bits(settings, picture)
        except Exception as error:  # whatever a processor raises of a picture, some of those that are too narrow
            failed = error
            continue
        found.append(eight is not None and _processor._close(_processor._normalised(eight, plain), own))
    if not found and failed is not None:
        what = f"the model's {settings['kind']} takes no plain picture: {_processor._said(failed)}"
        raise ModelError(what, where=where, remedy="use a model with a processor of pictures alone") from failed
    return all(found)


_UNPADDED = {"do_pad": False}


def _eight_bits(settings: dict[str, Any], picture: Image.Image) -> NDArray[np.uint8] | None:
    raw = _processor._made(settings, picture, do_rescale=False, do_normalize=False, **_UNPADDED)["pixel_values"]
    whole = raw.clip(0, 255).astype(np.uint8)
    return whole if (whole == raw).all() else None


def pixels_of(picture: Image.Image, options: dict[str, Any]) -> NDArray[np.uint8] | NDArray[np.float32]:
    """A picture's pixels [C, H, W] as `_processor.pixels_of`, of the height and width that the processor gives it."""
    settings = options.get("detector")
    if settings is None:
        return _processor.pixels_of(picture, options)
    _processor._check_strip(picture, settings)
    try:
        if settings["whole"]:
            pixels: Any = _eight_bits(settings, picture)
        else:
            pixels = _processor._made(settings, picture, **_UNPADDED)["pixel_values"]
    except MemoryError:
        raise RowProblem("image", "there is not the memory to prepare it", "make it smaller, or take it out") from None
    except Exception as error:  # whatever a processor raises of an odd picture
        reason = f"the model's {settings['kind']} cannot prepare it: {_processor._said(error)}"
        raise RowProblem("image", reason, "give it another size, or take it out") from None
    if pixels is None:
        raise RowProblem("image", f"the model's {settings['kind']} makes other pixels of it", "take it out")
    return np.ascontiguousarray(pixels)


def read(model: nn.Module, batch: Batch, *, hidden: bool = False) -> tuple[Said, context.Present]:
    """Run the model on a batch whose `fields` are `sides` [R, 2] (height and width in the batch's pixels), `boxes`
    [R, N, 4] and `classes` [R, N] (-1: none).
    """
    now, parts = context.of_batch(batch), list[tuple[Tensor, Said]]()
    sides: Tensor = batch.fields["sides"]
    by_picture = _loss_name(model) not in TOGETHER
    for side in torch.unique(sides, dim=0):
        at = (sides == side).all(1).nonzero()[:, 0]
        for some in at.split(1) if by_picture else (at,):
            parts.append((some, _run(model, batch, some, side.tolist(), hidden=hidden)))
    order = torch.cat([at for at, _ in parts]).argsort()

    def together(of: Callable[[Said], Tensor]) -> Tensor:
        return torch.cat([of(said) for _, said in parts])[order]

    states = None
    if hidden and len(parts) == 1:
        states = parts[0][1].hidden
    elif hidden:
        layers = zip(*(said.hidden or () for _, said in parts), strict=True)
        states = tuple(_joined(list(layer))[order] for layer in layers)
    made = Said(
        together(lambda s: s.logits),
        together(lambda s: s.boxes),
        together(lambda s: s.states),
        together(lambda s: s.losses),
        states,
    )
    return made, now


def _joined(parts: list[Tensor]) -> Tensor:
    """[R, L, D] of parts of several lengths, with zeros behind shorter ones."""
    longest = max(p.shape[1] for p in parts)
    return torch.cat([nn.functional.pad(p, (0, 0, 0, longest - p.shape[1])) for p in parts])


def _run(model: nn.Module, batch: Batch, at: Tensor, side: list[int], *, hidden: bool) -> Said:
    """Pictures of one size."""
    pixels = batch.inputs["pixel_values"][at][..., : side[0], : side[1]]
    inputs = in_type(model, {"pixel_values": pixels})
    boxes, classes = batch.fields["boxes"][at], batch.fields["classes"][at]
    labels = [{"class_labels": c[c >= 0], "boxes": b[c >= 0]} for b, c in zip(boxes, classes, strict=True)]
    kind = inputs["pixel_values"].dtype  # RT-DETR reads boxes with noise in training
    given = [{**one, "boxes": one["boxes"].to(kind)} for one in labels]
    chosen = at.tolist()
    rows = batch.replace(
        row_ids=[batch.row_ids[i] for i in chosen], sources=[batch.sources[i] for i in chosen], inputs=inputs, fields={}
    )
    how = {"output_hidden_states": True} if hidden else {}
    with context.reading(context.of_batch(rows)), _each_alone(model, labels) as losses:
        out = model(**inputs, labels=given, **how)
    found = torch.stack(losses)
    kept = getattr(out, "decoder_hidden_states", None) or getattr(out, "hidden_states", None) if hidden else None
    own = slice(-count_of(_body(model).config), None)  # behind what RT-DETR adds in training
    proposals = out.logits[:, own], out.pred_boxes[:, own], out.last_hidden_state[:, own]
    return Said(*proposals, found, tuple(kept) if kept else None)


def _loss_name(model: nn.Module) -> str:
    return getattr(_body(model).loss_function, "__name__", "")


def _body(model: nn.Module) -> Any:
    """The model of transformers inside whatever is around it."""
    return next(m for m in model.modules() if hasattr(m, "loss_function") and hasattr(m, "config"))


@contextmanager
def _each_alone(model: nn.Module, labels: list[dict[str, Tensor]]) -> Iterator[list[Tensor]]:
    """Inside, a model's loss is taken of each picture by itself, in float32, and kept; of models whose loss is not
    known to go so (there is one picture then), as it is.
    """
    body, kept = _body(model), list[Tensor]()
    whole = body.loss_function
    alone = getattr(whole, "__name__", "") in TOGETHER

    def each(logits: Tensor, given: Any, device: Any, boxes: Tensor, config: Any, *more: Any, **named: Any) -> Any:
        if not alone:
            found = whole(*_wide((logits, labels, device, boxes, config, *more)), **_wide(named))
            kept.append(found[0])
            return found
        for k in range(len(labels)):
            one = slice(k, k + 1)
            layers = [None if x is None else _wide(x[:, one]) for x in more]
            kept.append(whole(_wide(logits[one]), labels[one], device, _wide(boxes[one]), config, *layers, **named)[0])
        return torch.stack(kept).mean(), {}, None

    each.__name__ = getattr(whole, "__name__", "")
    before = body.__dict__.get("_loss_function")
    body.loss_function = each
    try:
        yield kept
    finally:
        if before is None:
            body.__dict__.pop("_loss_function", None)
        else:
            body.loss_function = before


def _wide(value: Any) -> Any:
    """A value with the tensors in it in float32, where they hold numbers."""
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, dict):
        return {k: _wide(v) for k, v in value.items()}
    return type(value)(_wide(v) for v in value) if isinstance(value, list | tuple) else value


def answers(said: Said, labels: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(classes [N], scores [N], boxes [N, 4] in shares) of each picture, as the models' own processors tell them: the
    likeliest class of each proposal where one more logit stands for nothing, else the likeliest pairs of proposal and
    class.
    """
    logits = said.logits.float()
    if logits.shape[-1] == labels + 1:
        scores, classes = logits.softmax(-1)[..., :-1].max(-1)
        yield from zip(classes, scores, said.boxes, strict=True)
        return
    for own, boxes in zip(logits.sigmoid(), said.boxes, strict=True):
        scores, places = own.flatten().topk(min(100, own.numel()))
        yield places % own.shape[-1], scores, boxes[places // own.shape[-1]]
