"""One vector a picture from a vision model without a head, and a model that is shown some of a picture's patches alone.

A picture's vector is what the family's classifiers read: the state of the class token where the model has one, else the
mean over the tokens; of a model of convolutions what it pools its last map to. Poolers of transformers (a dense layer
that only some checkpoints have) are not read.

Shapes: N pictures, T tokens, D their size, P patches, V of them visible.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tunewright.errors import MethodError, ModelError


def sees_alone(config: Any) -> bool:
    """Whether a config is of a model that makes vectors of a picture: what the hub's pipeline of the name takes."""
    from transformers import MODEL_FOR_IMAGE_MAPPING

    return type(config) in MODEL_FOR_IMAGE_MAPPING


def whole_pictures(config: Any) -> str:
    """Let a model read whole pictures that would hide a part by itself; what the user should know of it."""
    if not getattr(config, "mask_ratio", 0):
        return ""
    config.mask_ratio = 0.0
    return "the model's own masking of patches is off (mask_ratio): a vector is of the whole picture"


def read(model: nn.Module, pixels: Tensor, *, hidden: bool = False) -> Any:
    """The model's own output for pictures [N, C, H, W]."""
    more: dict[str, Any] = {"output_hidden_states": True} if hidden else {}
    config: Any = model.config
    if config.model_type == "vit_mae":  # it lays patches in the order of a noise, else drawn from torch's generator
        count = (int(config.image_size) // int(config.patch_size)) ** 2
        more["noise"] = torch.arange(count, dtype=torch.float32, device=pixels.device).expand(len(pixels), -1)
    return model(pixel_values=pixels, **more)


def pooled(model: nn.Module, said: Any) -> Tensor:
    """[N, D] of an output. ModelError where it holds no states."""
    states = getattr(said, "last_hidden_state", None)
    if states is None or states.dim() not in (3, 4):
        raise ModelError(
            f"{type(said).__name__} holds no states of a picture's tokens or places",
            remedy="use a model such as ViT, DINOv2, Swin, ConvNeXt, ResNet or EfficientNet",
        )
    if states.dim() == 3:
        return states[:, 0] if _has_class_token(model) else states.mean(1)
    own = getattr(said, "pooler_output", None)
    vectors: Tensor = states.mean((2, 3)) if own is None else own.flatten(1)
    return vectors


def _has_class_token(model: nn.Module) -> bool:
    return any(n.endswith("cls_token") for n, _ in model.named_parameters())


def patch_size(model: nn.Module) -> int:
    """Pixels of a patch's side. MethodError for a model whose patches cannot be left out."""
    size = getattr(model.config, "patch_size", None)  # type: ignore[union-attr]
    if not isinstance(getattr(model, "embeddings", None), nn.Module) or not isinstance(size, int):
        raise _refused(model)
    if not _has_class_token(model):
        raise _refused(model)
    return size


def _refused(model: nn.Module) -> MethodError:
    return MethodError(
        f"{type(model).__name__} cannot leave patches out: its layers read the places of a whole picture",
        where="'mae'",
        remedy="use a ViT, DeiT, DINOv2 or ViTMAE, or take simclr or byol",
    )


@contextmanager
def showing(model: nn.Module, visible: Tensor | None) -> Iterator[None]:
    """Inside, the model reads those patches alone that `visible` [N, V] names, by their places, beside what stands
    before all patches. None: all of them. MethodError for a model whose patches cannot be left out.
    """
    if visible is None:
        yield
        return
    size, module = patch_size(model), model.embeddings

    def shown(_: nn.Module, inputs: Any, given: Any, out: Any) -> Any:
        tokens = out[0] if isinstance(out, tuple) else out
        pixels = inputs[0] if inputs else given["pixel_values"]
        before = tokens.shape[1] - (pixels.shape[2] // size) * (pixels.shape[3] // size)
        if before < 1:
            raise _refused(model)
        at = (visible + before)[..., None].expand(-1, -1, tokens.shape[2])
        kept = torch.cat([tokens[:, :before], tokens.gather(1, at)], 1)
        return (kept, *out[1:]) if isinstance(out, tuple) else kept

    hook = module.register_forward_hook(shown, with_kwargs=True)  # type: ignore[operator,union-attr]
    try:
        yield
    finally:
        hook.remove()
