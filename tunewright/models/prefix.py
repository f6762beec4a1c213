"""Trained keys and values before every row: a twin of a model that shares all its weights and begins with a full cache.

Each layer's attention finds n pairs of a key and a value in its cache before the first token of a row is read, as if
n tokens had been. Tokens' positions begin at n, as PEFT has them. Nothing is read in the prefix's places, so inputs
and outputs keep their lengths. Packed rows are laid side by side for the while, since a cache knows rows of one
length only.

Shapes: n virtual tokens, K layers, H key/value heads of size d, R rows, L tokens of a padded row, T of all packed rows.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from tunewright.errors import MethodError
from tunewright.files.tensors import save_tensors
from tunewright.models.prompt import BOUNDS, body_of, shared

_CLASSES: dict[type, type] = {}
CACHES = ("cache", "past_key_values")
"""The name of a cache among a body's inputs from transformers 5.24 on, and before."""


def sizes(model: nn.Module) -> tuple[int, int, int]:
    """(layers K, key/value heads H, size d of one) of a model whose layers are all alike.

    MethodError for one that takes no cache.
    """
    body, config = body_of(model), getattr(model, "config", None)
    config = config.get_text_config() if config is not None else None
    heads = int(getattr(config, "num_attention_heads", 0) or 0)
    if not heads or _cache_name(body) is None or getattr(config, "is_encoder_decoder", False):
        raise MethodError(
            f"{type(body).__name__} takes no keys and values of earlier tokens, before which a prefix could stand",
            where="model",
            remedy="use a causal language model or an encoder of BERT's kind, or lora here",
        )
    if getattr(config, "layer_types", None) and len(set(config.layer_types)) > 1:  # type: ignore[union-attr]
        raise MethodError(
            "a prefix needs layers that all keep keys and values of every token, and this model's layers differ: "
            + ", ".join(sorted(set(config.layer_types))),  # type: ignore[union-attr]
            where="model",
            remedy="use prompt-tuning or lora here",
        )
    size = getattr(config, "head_dim", None) or config.hidden_size // heads  # type: ignore[union-attr]
    kept = getattr(config, "num_key_value_heads", None) or heads
    return int(config.num_hidden_layers), int(kept), int(size)  # type: ignore[union-attr]


def _cache_name(body: nn.Module) -> str | None:
    accepted = inspect.signature(body.forward).parameters
    return next((n for n in CACHES if n in accepted), None)


def prefixed(model: nn.Module, length: int, make: Callable[[], Tensor]) -> nn.Module:
    """The twin of `model` whose layers begin with the `length` keys and values that `make()` [n, K, 2, H, d] gives.

    MethodError for a model that takes no cache.
    """
    sizes(model)
    body = body_of(model)
    twin, inner = shared(model), shared(body)
    cls = type(inner)
    if cls not in _CLASSES:
        _CLASSES[cls] = type(cls.__name__, (cls,), {"forward": _forward(cls), "__module__": cls.__module__})
    inner.__class__ = _CLASSES[cls]
    inner.tunewright_prefix, inner.tunewright_prefix_length = make, length
    inner.tunewright_places = min(_places(body), default=0)
    inner.tunewright_bidirectional = any(getattr(m, "is_causal", None) is False for m in body.modules())
    twin._modules[model.base_model_prefix] = inner  # type: ignore[index]
    return twin  # type: ignore[no-any-return]


def _places(body: nn.Module) -> list[int]:
    """Sizes of its tables of learned positions."""
    tables = [(n.rsplit(".", 1)[-1], m) for n, m in body.named_modules() if isinstance(m, nn.Embedding)]
    return [m.num_embeddings for n, m in tables if n == "wpe" or "position" in n]


def _forward(base: type[nn.Module]) -> Any:
    name = next(n for n in CACHES if n in inspect.signature(base.forward).parameters)

    def forward(self: Any, input_ids: Tensor | None = None, **inputs: Any) -> Any:
        if getattr(self, "is_activation_checkpointing", False):
            if self.training and torch.is_grad_enabled():
                raise MethodError(
                    "a prefix is kept in a cache, which blocks that are computed again would fill twice",
                    where="train.activation_checkpointing",
                    remedy="set it to false, or use prompt-tuning",
                )
        given = input_ids if input_ids is not None else inputs["inputs_embeds"]
        if inputs.get(BOUNDS[0]) is not None:
            return _unpacked(self, base, name, given, inputs)
        cache = inputs.pop(CACHES[0], inputs.pop(CACHES[1], None))
        n, places = self.tunewright_prefix_length, self.tunewright_places
        if places and given.shape[1] + n > places:
            raise MethodError(
                f"{given.shape[1]} tokens behind a prefix of {n} need more than the model's {places} positions",
                where="data.max_length",
                remedy=f"write max_length: {places - n} or less",
            )
        if cache is None or not cache.get_seq_length():
            cache = DynamicCache() if cache is None else cache
            fill(cache, self.tunewright_prefix(), len(given), self.dtype)
        if inputs.get("position_ids") is not None:
            inputs["position_ids"] = inputs["position_ids"] + n
        mask = inputs.get("attention_mask")
        if mask is not None and mask.dim() != 2:
            raise MethodError(
                "a prefix needs a mask of rows and tokens [R, L]",
                remedy="give attention_mask as the tokenizer makes it",
            )
        if self.tunewright_bidirectional:
            inputs["attention_mask"] = _open(mask, given, n, self.dtype)
        elif mask is not None:
            inputs["attention_mask"] = torch.cat([mask.new_ones(len(mask), n), mask], 1)
        return base.forward(self, input_ids=input_ids, **{name: cache}, **inputs)

    return forward


def _open(mask: Tensor | None, given: Tensor, n: int, dtype: torch.dtype) -> Tensor:
    """[R, 1, L, n + L] added to an encoder's scores: an encoder makes its mask without looking at its cache."""
    rows, length = given.shape[:2]
    real = given.new_ones((rows, n + length), dtype=torch.bool)
    if mask is not None:
        real[:, n:] = mask.bool()
    added = torch.zeros(real.shape, dtype=dtype, device=given.device).masked_fill(~real, torch.finfo(dtype).min)
    return added[:, None, None].expand(-1, 1, length, -1)


def fill(cache: Any, prefix: Tensor, rows: int, dtype: torch.dtype) -> None:
    """Put a prefix [n, K, 2, H, d] into an empty cache, the same for each row."""
    for layer, pair in enumerate(prefix.to(dtype).permute(1, 2, 3, 0, 4)):  # [2, H, n, d]
        key, value = (t[None].expand(rows, -1, -1, -1) for t in pair)
        cache.update(key, value, layer)


def _unpacked(self: Any, base: Any, name: str, given: Tensor, inputs: dict[str, Any]) -> Any:
    """A packed forward [1, T] as a padded one [R, L], its states laid end to end again."""
    ends = inputs[BOUNDS[0]].long()
    lengths = ends.diff()
    columns = torch.arange(int(lengths.max()), device=ends.device)
    inside = columns < lengths[:, None]
    places = (ends[:-1, None] + columns).clamp(max=int(ends[-1]) - 1)
    rest = {
        k: v
        for k, v in inputs.items()
        if k not in (*BOUNDS, "max_length_q", "max_length_k", "position_ids", "attention_mask", "inputs_embeds")
    }
    first = {"input_ids" if given.dim() == 2 else "inputs_embeds": given[0][places]}
    out = type(self).forward(self, **first, **rest, attention_mask=inside.long())
    out.last_hidden_state = out.last_hidden_state[inside][None]
    if getattr(out, "hidden_states", None) is not None:
        out.hidden_states = tuple(h[inside][None] for h in out.hidden_states)
    return out


def save_prefix(prefix: Tensor, config: Any, folder: Path, base_name: str, task_type: str | None) -> None:
    """Write a prefix [n, K, 2, H, d] as a PEFT PREFIX_TUNING adapter: `prompt_embeddings` [n, 2 K H d]."""
    n, layers, _, heads, size = prefix.shape
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(
        {"prompt_embeddings": prefix.detach().float().reshape(n, -1).contiguous()},
        folder / "adapter_model.safetensors",
        metadata={"format": "pt"},
    )
    written = {
        "peft_type": "PREFIX_TUNING",
        "task_type": task_type,
        "base_model_name_or_path": base_name,
        "num_virtual_tokens": n,
        "token_dim": heads * size,
        "num_transformer_submodules": 1,
        "num_layers": layers,
        "num_attention_heads": heads,
        "encoder_hidden_size": heads * size,
        "prefix_projection": False,
        "inference_mode": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(written, indent=2, sort_keys=True) + "\n", encoding="utf-8")
