"""What a model's forward calls its arguments, and what it gives."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn


def cache_argument(model: nn.Module) -> str | None:
    """The name of the cache of keys and values: "cache" from transformers 5.24 on, "past_key_values" before; None:
    it takes none.
    """
    return next((name for name in ("cache", "past_key_values") if takes(model, name)), None)


def takes(model: nn.Module, name: str) -> bool:
    """Whether the model's forward names an argument."""
    return name in _names(getattr(model.forward, "__func__", model.forward))


def states_name(block: Any) -> str:
    """What a block's class calls the states that it is given: its forward's first argument ("hidden_states" in most).
    Of a class that passes on whatever it is given (with changes on it), what the class below it calls them.
    """
    return _states_name(block)


@lru_cache(maxsize=64)
def _states_name(block: Any) -> str:
    for cls in block.__mro__:
        own = vars(cls).get("forward")
        names = (
            [n for n, p in inspect.signature(own).parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
            if own
            else []
        )
        if len(names) > 1:
            return names[1]
    return "hidden_states"


def embedding_of(model: Any) -> nn.Module | None:
    """The table of a model's tokens; None of one that has none (a forecaster of patches)."""
    try:
        found: nn.Module | None = model.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        return None
    return found


def reads_two_texts(model: nn.Module) -> bool:
    """Whether an encoder reads a text or a recording and a decoder writes another: a layer sees one of them alone."""
    if hasattr(model, "prepare_decoder_input_ids_from_labels"):
        return True
    return takes(model, "decoder_input_ids") and getattr(model, "main_input_name", "input_ids") != "input_ids"


def among_choices(model: nn.Module, ids: Tensor) -> Tensor:
    """Token ids [R, L] as a model takes them: [R, 1, L] where it reads several choices a row."""
    return ids[:, None] if type(model).__name__.endswith("ForMultipleChoice") else ids


def has_two_towers(model: nn.Module) -> bool:
    """Whether a model reads pictures and texts apart, into vectors of one space (CLIP and its kin)."""
    config = getattr(model, "config", None)
    towers = hasattr(config, "text_config") and hasattr(config, "vision_config")
    return towers and takes(model, "pixel_values") and takes(model, "return_loss")


def sees_pictures(model: nn.Module) -> bool:
    """Whether a language model reads pictures among its tokens (LLaVA and its kin), and writes text."""
    config = getattr(model, "config", None)
    said = getattr(config, "text_config", None) is not None and getattr(config, "vision_config", None) is not None
    return said and takes(model, "pixel_values") and takes(model, "input_ids") and not takes(model, "return_loss")


def text_beside(model: nn.Module) -> Tensor:
    """Token ids [2, L] of two texts that a model of two towers can read, the same each time."""
    config: Any = model.config.text_config  # type: ignore[union-attr]
    ends, length = config.eos_token_id, int(config.max_position_embeddings)
    ids = (torch.arange(2 * length) * 7 + 5).view(2, length) % int(config.vocab_size)
    if isinstance(ends, int):
        ids[ids == ends] = (ends + 1) % int(config.vocab_size)
        ids[:, -1] = ends
    return ids


def said_in(out: Any) -> Tensor:
    """The logits of a forward's output; of a model that finds spans, those of their starts and ends, side by side; of
    a model of two towers, those of each picture over the texts; of a policy, what it says of actions; of one that
    forecasts, its forecasts, or the parameters of their distributions side by side; of a model without a head, its last
    states.
    """
    if (told := getattr(out, "prediction_outputs", None)) is not None:
        return told if isinstance(told, Tensor) else torch.stack(tuple(told), -1)
    if getattr(out, "full_predictions", None) is not None:
        quantiles: Tensor = out.full_predictions
        return quantiles
    if getattr(out, "action_preds", None) is not None:
        actions: Tensor = out.action_preds
        return actions
    if hasattr(out, "start_logits"):
        return torch.stack([out.start_logits, out.end_logits], -1)
    if getattr(out, "logits_per_image", None) is not None:
        per_image: Tensor = out.logits_per_image
        return per_image
    logits: Tensor | None = getattr(out, "logits", None)
    states: Tensor = out.last_hidden_state if logits is None else logits
    return states


@lru_cache(maxsize=64)  # asked at every token
def _names(forward: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(forward).parameters)
