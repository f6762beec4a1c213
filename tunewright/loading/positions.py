"""Longer texts than a model learnt with: its rotary positions scaled as the recipe says, in its config."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from tunewright.data.order import sizes
from tunewright.errors import ModelError

WHERE = "model.rope_scaling"
SUCH = "Llama, Qwen, Mistral, Gemma and their kin"


def scale(config: Any, spec: Any, folder: Path) -> str:
    """Write a recipe's RoPE scaling into a model's config, as transformers writes it; returns what to say of it.

    Positions become `factor` times as many. Layers that see a window alone keep theirs. ModelError for a model whose
    positions are no RoPE, or are scaled already.
    """
    text = config.get_text_config()
    rope, known = getattr(text, "rope_parameters", None), getattr(text, "max_position_embeddings", None)
    if not rope or not isinstance(known, int):
        raise ModelError(
            f"a {config.model_type} model has no rotary positions (RoPE) that could be scaled",
            where=WHERE,
            remedy=f"remove model.rope_scaling, or use a model that has them ({SUCH})",
        )
    layers = [rope[k] for k in ("full_attention",) if isinstance(rope.get(k), dict)]
    own = layers[0] if layers else rope
    kind = own.get("rope_type", "default")
    if kind != "default":
        raise ModelError(
            f"this model's positions are scaled already (rope_type {kind}, factor {own.get('factor', 'its own')})",
            where=WHERE,
            remedy=f"remove model.rope_scaling: it reads {known:,} tokens as it is",
        )
    values = spec.values
    original = values.pop("original_max_position_embeddings", None) or known
    if original > known:
        raise ModelError(
            f"original_max_position_embeddings is {original:,}, and the model has {known:,} positions",
            where=WHERE,
            remedy="remove it: the model's own is taken",
        )
    if spec.rope_type != "linear":
        values["original_max_position_embeddings"] = original
    own.update(values)
    text.max_position_embeddings = math.floor(spec.factor * original)
    try:
        text.validate_rope()
    except Exception as e:
        raise ModelError(f"transformers does not take it: {e}", where=WHERE, remedy="put the value right") from e
    now = text.max_position_embeddings
    return (
        f"positions are scaled ({spec.rope_type}, factor {spec.factor:g}): {now:,} in the place of {known:,}; the base "
        "that is measured, and that strength 0 goes back to, is the model with them scaled"
    )


def lengthen(tokenizer: Any, config: Any) -> None:
    """Let a tokenizer take as many tokens as the scaled model has positions."""
    if tokenizer is not None:
        tokenizer.model_max_length = max(tokenizer.model_max_length, config.get_text_config().max_position_embeddings)


def check_scaled(model: nn.Module, spec: Any) -> None:
    """ModelError for a model whose class does not read the scaling that its config has."""
    kinds: list[Any] = []
    for module in model.modules():
        kind = getattr(module, "rope_type", None)
        kinds += kind.values() if isinstance(kind, dict) else [kind]
    if spec.rope_type not in kinds:
        raise ModelError(
            f"{type(model).__name__} does not read the rope_type of its config",
            where=WHERE,
            remedy=f"remove model.rope_scaling, or use a model whose class does ({SUCH})",
        )


def hash_of(weights: str, spec: Any) -> str:
    """The hash of weights that are read with scaled positions: what was made for one does not fit the other."""
    told = json.dumps(spec.values, sort_keys=True)
    return hashlib.sha256(f"{weights}/rope {told}".encode()).hexdigest()


def beyond(config: Any, datasets: Sequence[Any], limit: int, asked: int) -> list[str]:
    """That rows are longer than the rotary positions that a model learnt with, where the recipe asks for more: they are
    read nevertheless, or not (`limit`: tokens that its tokenizer takes, of `asked` ones).
    """
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    known, rope = getattr(text, "max_position_embeddings", None), getattr(text, "rope_parameters", None)
    if not isinstance(known, int) or asked <= known or not rope:
        return []
    longest = max((int(max(sizes(d.rows), default=0)) for d in datasets), default=0)
    if longest > known:
        what = f"rows have up to {longest:,} tokens"
    elif limit < asked and any(d.counts.get("too_long") for d in datasets):
        what = f"rows of more than {limit:,} tokens are not read whole, where data.max_length is {asked:,}"
    else:
        return []
    remedy = f"write data.max_length: {known}"
    if rope.get("full_attention", rope).get("rope_type", "default") == "default":
        factor = math.ceil((longest if longest > known else asked) / known)
        remedy = f"write model.rope_scaling: {{rope_type: yarn, factor: {factor}.0}}, or data.max_length: {known}"
    return [f"{what}, and the model learnt with {known:,} positions: {remedy}"]
