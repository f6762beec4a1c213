"""Virtual tokens before some rows of a batch and none before the others, for `models/prompt.py`.

Shapes: n virtual tokens, R rows of which `has` [R] says that they have the prompt, L tokens of a padded row, T of all
packed rows, D embedding size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tunewright.errors import MethodError
from tunewright.models.context import told

BOUNDS = ("cu_seq_lens_q", "cu_seq_lens_k")


def check_mask(mask: Tensor) -> None:
    """MethodError for a mask that says more than which places hold tokens."""
    if mask.dim() != 2:
        raise MethodError(
            "a prompt needs a mask of rows and tokens [R, L]",
            remedy="give attention_mask as the tokenizer makes it",
        )


def with_prompt(inputs: dict[str, Any], without: frozenset[str]) -> Tensor | None:
    """[R] bool: which rows of the present forward are of no source in `without`; None where all are.

    A row of which nothing is known (a message typed in a chat) has the prompt.
    """
    now = told()
    if not without or now is None or not now.rows.sources:
        return None
    embeds = inputs["inputs_embeds"]
    rows, bounds = now.at(embeds)[0], inputs.get(BOUNDS[0])
    first = rows[:, 0] if bounds is None else rows[0, bounds[:-1].long()]
    has = torch.tensor([s not in without for s in now.rows.sources], device=embeds.device)[first]
    return None if bool(has.all()) else has


def lengthened_some(inputs: dict[str, Any], prompt: Tensor, has: Tensor) -> tuple[dict[str, Any], Tensor | None]:
    """Inputs of the body with the prompt before the rows that have it, and the places of the real tokens in them.

    Padded rows without it have as many masked places. None: a cache holds the prompt already, and all places are kept.
    """
    n, device, inputs = len(prompt), prompt.device, dict(inputs)
    counts = n * has.long()
    if inputs.get(BOUNDS[0]) is not None:
        return _packed(inputs, prompt, has, counts)
    embeds, mask, positions = (inputs.get(k) for k in ("inputs_embeds", "attention_mask", "position_ids"))
    cache = inputs.get("cache", inputs.get("past_key_values"))
    held = 0 if cache is None else int(cache.get_seq_length())
    assert isinstance(embeds, Tensor)
    length = embeds.shape[1]
    if mask is None:  # a cache holds n virtual places of every row
        mask = torch.ones(len(embeds), max(0, held - n) + length, dtype=torch.long, device=device)
    check_mask(mask)
    if positions is None:
        positions = (mask.cumsum(1) - 1).clamp_min(0)[:, -length:]
    inputs["attention_mask"] = torch.cat([has[:, None].expand(-1, n).to(mask.dtype), mask], 1)
    inputs["position_ids"] = positions + counts[:, None]
    if held:
        return inputs, None
    first = torch.arange(n, device=device)
    inputs["inputs_embeds"] = torch.cat([prompt[None].expand(len(embeds), -1, -1), embeds], 1)
    inputs["position_ids"] = torch.cat([first[None].expand(len(embeds), -1), inputs["position_ids"]], 1)
    return inputs, torch.arange(n, n + length, device=device)


def _packed(inputs: dict[str, Any], prompt: Tensor, has: Tensor, counts: Tensor) -> tuple[dict[str, Any], Tensor]:
    n, device, ends = len(prompt), prompt.device, inputs[BOUNDS[0]].long()
    row = torch.repeat_interleave(torch.arange(len(has), device=device), ends.diff())
    behind = counts.cumsum(0)  # virtual tokens up to and with each row's
    kept = torch.arange(len(row), device=device) + behind[row]
    source = torch.empty(len(row) + int(behind[-1]), dtype=torch.long, device=device)
    first = torch.arange(n, device=device)
    starts = (ends[:-1] + behind - counts)[has]
    source[(starts[:, None] + first).flatten()] = first.repeat(len(starts))
    source[kept] = n + torch.arange(len(row), device=device)
    inputs["inputs_embeds"] = torch.cat([prompt, inputs["inputs_embeds"][0]]).index_select(0, source)[None]
    positions = inputs.get("position_ids")
    if positions is not None:
        inputs["position_ids"] = torch.cat([first, positions[0] + counts[row]])[source][None]
    moved = (ends + torch.cat([behind.new_zeros(1), behind])).to(inputs[BOUNDS[0]].dtype)
    most = {k: inputs[k] + n for k in ("max_length_q", "max_length_k")}
    return {**inputs, **dict.fromkeys(BOUNDS, moved), **most}, kept
