"""A frozen classifier that is read beside a small model of its kind, which starts at random: the parts of `levi`.

R rows, T tokens, D width of the frozen model's states.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from tunewright.errors import MethodError
from tunewright.models.context import told
from tunewright.pieces.beside import Beside, real_tokens
from tunewright.pieces.means import token_means

NOTE = "two-views"
"""Under this name the taps' features are noted of a forward (`Present.note`): [taps, R, D]."""


def normed(x: Tensor) -> Tensor:
    """Each vector of x [.., d] at mean 0 and variance 1."""
    return layer_norm(x, x.shape[-1:])


def small_model(model: Any, blocks: int, reduction: int, where: str) -> nn.Module:
    """A fresh body of the model's class, `reduction` times narrower, with so many blocks. MethodError where its config
    does not say how wide it is.
    """
    config = copy.deepcopy(model.config)
    width, heads = getattr(config, "hidden_size", None), getattr(config, "num_attention_heads", None)
    if not isinstance(width, int) or not isinstance(heads, int) or width < 2 * reduction:
        raise MethodError(
            f"the config of {type(model).__name__} says no width that could be divided by {reduction}",
            where=where,
            remedy="write a smaller one, or use a transformer with hidden_size and num_attention_heads",
        )
    config.hidden_size = width // reduction
    config.num_hidden_layers, config.num_attention_heads = blocks, math.gcd(heads, config.hidden_size)
    for name in ("intermediate_size", "num_key_value_heads", "head_dim"):
        if isinstance(value := getattr(config, name, None), int):
            narrow = {"num_key_value_heads": config.num_attention_heads}
            narrow["head_dim"] = config.hidden_size // config.num_attention_heads
            setattr(config, name, narrow.get(name, value // reduction))
    try:
        body: Any = type(model)._from_config(config).base_model
    except (ValueError, RuntimeError, TypeError, AttributeError) as error:
        raise MethodError(f"{type(model).__name__} cannot be made smaller: {error}", where=where) from error
    if getattr(body, "pooler", None) is not None:
        body.pooler = None
    fresh: nn.Module = body
    return fresh


class Views(nn.Module):
    """The small model and the adapting layers: states of the taps [R, T, D] to features [taps, R, D]."""

    def __init__(self, small: nn.Module, taps: int, width: int, inner: int):
        super().__init__()
        self.small = small
        both = width + int(small.config.hidden_size)  # type: ignore[union-attr,arg-type]
        self.adapting = nn.ModuleList(
            nn.Sequential(nn.Linear(both, inner), nn.ReLU(), nn.Linear(inner, width)) for _ in range(taps)
        )

    def forward(self, hidden: Sequence[Tensor], mask: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        states = self.small(**inputs).last_hidden_state
        own = normed(token_means(states, real_tokens(states, inputs)))
        seen = [torch.cat([normed(token_means(h, mask)), own], -1) for h in hidden]
        return torch.stack([adapting(x) for adapting, x in zip(self.adapting, seen, strict=True)])


class TwoViews(Beside):
    """The model as its task calls it; the head reads the mean of the taps' features, and each tap's are noted."""

    def forward(self, output_hidden_states: bool = False, **inputs: Any) -> Any:
        hidden, mask, out = self.read(inputs)
        features = self.side(hidden, mask, inputs)
        if (now := told()) is not None:
            now.note(NOTE, features)
        return SimpleNamespace(logits=self._head[0](features.mean(0)), hidden_states=out.hidden_states)
