"""From a model's states to one vector a text, as its config says (`sentence_embedding`).

Shapes: N texts, L the longest, D the width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

MODES = ("mean", "cls", "max", "lasttoken")
"""What a text's vector may be made of its tokens' states, as sentence-transformers calls it."""
KEY = "sentence_embedding"
"""The config's attribute: {"pooling": one of MODES, "normalize": whether vectors have length 1}."""
DEFAULT: dict[str, Any] = {"pooling": "mean", "normalize": True}
"""Of a model that says nothing: Reimers and Gurevych 2019 (arXiv:1908.10084) found the mean best."""


def how_of(config: Any) -> dict[str, Any]:
    """How a model's texts become vectors."""
    return {**DEFAULT, **(getattr(config, KEY, None) or {})}


def pooled(states: Tensor, mask: Tensor, how: dict[str, Any]) -> Tensor:
    """[N, D] in fp32, from states [N, L, D] and the mask [N, L] of tokens (padded at the right)."""
    states, inside = states.float(), mask[..., None].to(torch.float32)
    if how["pooling"] == "mean":
        vectors = (states * inside).sum(1) / inside.sum(1).clamp(min=1e-9)
    elif how["pooling"] == "max":
        vectors = states.masked_fill(inside == 0, -torch.inf).amax(1)
    else:
        at = mask.sum(1) - 1 if how["pooling"] == "lasttoken" else torch.zeros_like(mask[:, 0])
        vectors = states[torch.arange(len(states), device=states.device), at]
    return normalize(vectors, dim=-1) if how["normalize"] else vectors
