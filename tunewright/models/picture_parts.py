"""The parts of a model that reads pictures among its tokens: what speaks, what sees, and what lies between them."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PreTrainedModel

from tunewright.models.arguments import sees_pictures

LANGUAGE, TOWER, PROJECTOR = PARTS = ("language_model", "vision_tower", "projector")
"""The names by which targets may call the parts, whatever a model's own are."""


def parts_of(model: nn.Module) -> dict[str, str]:
    """Beginning of modules' names, with its dot -> the part; none for other models.

    The body that holds the word embeddings is the language model; other bodies (with a config of their own) see; what
    is left of the model's body projects. A projector inside the tower, as Qwen2-VL has it, belongs to the tower.
    """
    if not sees_pictures(model):
        return {}
    body: Any = getattr(model, "base_model", model)
    name = next((n for n, m in model.named_modules() if m is body), "")
    words = body.get_input_embeddings()
    parts: dict[str, str] = {}
    for child, module in body.named_children():
        if any(m is words for m in module.modules()):
            part = LANGUAGE
        else:
            part = TOWER if isinstance(module, PreTrainedModel) else PROJECTOR
        parts[f"{name}.{child}." if name else f"{child}."] = part
    return parts
