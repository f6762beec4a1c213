"""Virtual tokens before every row: a twin of a causal model that shares all its weights and reads a prompt first.

The twin is a model of the same class whose body (the decoder without its head) takes n trainable vectors in front of
each row, packed, padded or with a cache, and gives back the states of the real tokens alone. So its inputs and outputs
have the lengths that the caller knows: places of labels, padding and generation need not know of the prompt. The model
itself is not touched.

Shapes: n virtual tokens, R rows, L tokens of a padded row, T of all packed rows, D embedding size.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tunewright.errors import MethodError
from tunewright.files.tensors import save_tensors
from tunewright.models.prompt_rows import BOUNDS, check_mask, lengthened_some, with_prompt

_CLASSES: dict[type, type] = {}


def body_of(model: nn.Module) -> nn.Module:
    """The model without its head. MethodError for a model with no body of its own."""
    prefix = getattr(model, "base_model_prefix", "")
    body = getattr(model, prefix, None) if prefix else None
    if not isinstance(body, nn.Module) or body is model:
        raise MethodError(
            f"{type(model).__name__} has no body before its head, where a prompt could be read",
            remedy="use a causal language model",
        )
    return body


def leave_room(model: nn.Module, length: int, where: str) -> None:
    """MethodError where so many places before a row leave it none: a model knows its positions up to a number."""
    config: Any = getattr(model, "config", None)
    known = getattr(config.get_text_config(), "max_position_embeddings", None) if config is not None else None
    if isinstance(known, int) and 0 < known <= length:
        raise MethodError(
            f"{length} virtual tokens leave no place for a row: the model knows {known} positions",
            where=where,
            remedy=f"write {max(1, known // 4)} or fewer",
        )


def prompted(
    model: nn.Module, prompt: nn.Parameter | Callable[[], Tensor], without: frozenset[str] = frozenset()
) -> nn.Module:
    """The twin of `model` that reads `prompt` [n, D], or what it gives when called, before every row but those of the
    sources `without`.

    MethodError for a model with no body of its own.
    """
    body = body_of(model)
    twin, inner = shared(model), shared(body)
    cls = type(inner)
    if cls not in _CLASSES:
        _CLASSES[cls] = type(cls.__name__, (cls,), {"forward": _forward(cls), "__module__": cls.__module__})
    inner.__class__ = _CLASSES[cls]
    inner.tunewright_prompt, inner.tunewright_without = prompt, without
    inner.reads_rows = bool(without)  # then a common start of rows is not the same for all of them
    twin._modules[model.base_model_prefix] = inner  # type: ignore[index]
    return twin  # type: ignore[no-any-return]


def shared(module: nn.Module) -> Any:
    """Another module with the same parameters, buffers and children."""
    twin = copy.copy(module)
    for attribute in ("_modules", "_parameters", "_buffers"):
        twin.__dict__[attribute] = dict(module.__dict__[attribute])
    return twin


def _forward(base: type[nn.Module]) -> Any:
    def forward(self: Any, input_ids: Tensor | None = None, **inputs: Any) -> Any:
        if inputs.get("inputs_embeds") is None:
            inputs["inputs_embeds"] = self.get_input_embeddings()(input_ids)
        prompt = self.tunewright_prompt
        prompt = (prompt() if callable(prompt) else prompt).to(inputs["inputs_embeds"].dtype)
        has = with_prompt(inputs, self.tunewright_without)
        if has is not None and not bool(has.any()):
            return base.forward(self, **inputs)
        inputs, kept = lengthened(inputs, prompt) if has is None else lengthened_some(inputs, prompt, has)
        out = base.forward(self, **inputs)
        if kept is None:
            return out
        out.last_hidden_state = out.last_hidden_state[:, kept]
        if getattr(out, "hidden_states", None) is not None:
            out.hidden_states = tuple(h[:, kept] for h in out.hidden_states)
        return out

    return forward


def lengthened(inputs: dict[str, Any], prompt: Tensor) -> tuple[dict[str, Any], Tensor | None]:
    """Inputs of the body with the prompt in front of each row, and the places of the real tokens in them.

    Where a cache already holds the prompt only positions and mask move on: then the places are None (all).
    """
    n, device, inputs = len(prompt), prompt.device, dict(inputs)
    embeds, positions, mask = (inputs.get(k) for k in ("inputs_embeds", "position_ids", "attention_mask"))
    cache = inputs.get("cache", inputs.get("past_key_values"))  # its name from transformers 5.24 on, and before
    assert isinstance(embeds, Tensor)
    first, virtual = torch.arange(n, device=device), prompt[None].expand(len(embeds), -1, -1)
    if positions is not None:
        positions = inputs["position_ids"] = positions + n
    if inputs.get(BOUNDS[0]) is not None:
        return _packed(inputs, prompt, embeds, positions)
    if mask is not None:
        check_mask(mask)
        inputs["attention_mask"] = torch.cat([mask.new_ones(len(mask), n), mask], 1)
    if cache is not None and cache.get_seq_length():
        return inputs, None
    inputs["inputs_embeds"] = torch.cat([virtual, embeds], 1)
    if positions is not None:
        inputs["position_ids"] = torch.cat([first[None].expand(len(positions), -1), positions], 1)
    return inputs, torch.arange(n, n + embeds.shape[1], device=device)


def _packed(
    inputs: dict[str, Any], prompt: Tensor, embeds: Tensor, positions: Tensor | None
) -> tuple[dict[str, Any], Tensor]:
    n, device, ends = len(prompt), prompt.device, inputs[BOUNDS[0]].long()
    row = torch.repeat_interleave(torch.arange(len(ends) - 1, device=device), ends[1:] - ends[:-1])
    kept = torch.arange(len(row), device=device) + n * (row + 1)
    # where each place of the longer sequence reads from [prompt | tokens]
    source = torch.empty(len(row) + n * (len(ends) - 1), dtype=torch.long, device=device)
    starts = ends[:-1] + n * torch.arange(len(ends) - 1, device=device)
    source[(starts[:, None] + torch.arange(n, device=device)).flatten()] = torch.arange(n, device=device).repeat(
        len(ends) - 1
    )
    source[kept] = n + torch.arange(len(row), device=device)
    inputs["inputs_embeds"] = torch.cat([prompt, embeds[0]]).index_select(0, source)[None]
    if positions is not None:
        inputs["position_ids"] = torch.cat([torch.arange(n, device=device), positions[0]])[source][None]
    moved = (ends + n * torch.arange(len(ends), device=device)).to(inputs[BOUNDS[0]].dtype)
    inputs |= {
        **dict.fromkeys(BOUNDS, moved),
        "max_length_q": inputs["max_length_q"] + n,
        "max_length_k": inputs["max_length_k"] + n,
    }
    return inputs, kept


def save_prompt(prompt: Tensor, config: Any, folder: Path, base_name: str, **more: Any) -> None:
    """Write a prompt [n, D] as a PEFT PROMPT_TUNING adapter, or as one of another type by `more` settings."""
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(
        {"prompt_embeddings": prompt.detach().float().contiguous()},
        folder / "adapter_model.safetensors",
        metadata={"format": "pt"},
    )
    written = {
        "peft_type": "PROMPT_TUNING",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "num_virtual_tokens": len(prompt),
        "token_dim": prompt.shape[1],
        "num_transformer_submodules": 1,
        "num_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        **({} if "peft_type" in more else {"prompt_tuning_init": "RANDOM"}),
        "inference_mode": True,
        **more,
    }
    (folder / "adapter_config.json").write_text(json.dumps(written, indent=2, sort_keys=True) + "\n", encoding="utf-8")
