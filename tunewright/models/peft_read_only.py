"""PEFT's types that no form of delta stands for: AdaLoRA's, read as plain low-rank changes, and norms, whole."""

from __future__ import annotations

from typing import Any

import torch

from tunewright.models.deltas import LowRank
from tunewright.models.peft_layer import COMMON, Kind, Layer
from tunewright.models.peft_settings import check_names, refuse_wrong

RANK = 12
"""PEFT's init_r, where a file says none."""
EPSILON = 1e-5
"""What PEFT adds to the rank that it divides by."""


def _read_adalora(layer: Layer) -> LowRank:
    """W + alpha / (init_r + 1e-5) B diag(E) A: PEFT divides by the rank that training began with, also where triplets
    were cut out since.
    """
    first, alpha = layer.config.get("init_r", RANK), layer.config.get("lora_alpha", 8)
    kept = (layer.config.get("rank_pattern") or {}).get(f"{layer.name}.lora_E")
    rank = first if kept is None else sum(kept)
    A, B = layer.take("lora_A", rank, layer.inputs), layer.take("lora_B", layer.outputs, rank)
    E = layer.take("lora_E", rank, 1)
    if not rank:  # all were cut out: a change by nothing
        A, B, E = torch.zeros(1, layer.inputs), torch.zeros(layer.outputs, 1), torch.zeros(1, 1)
    scale = (alpha if alpha > 0 else rank) / (first + EPSILON)
    return LowRank(A * E, B, scale, dropout=float(layer.config.get("lora_dropout") or 0.0))


def _check_adalora(config: dict[str, Any], where: str) -> None:
    check_names(config, where)

    def mask(v: Any) -> bool:
        return isinstance(v, list) and len(v) == config.get("init_r", RANK) and all(isinstance(x, bool) for x in v)

    rank, alpha, kept = config.get("init_r", RANK), config.get("lora_alpha", 8), config.get("rank_pattern") or {}
    fine = {
        "init_r": isinstance(rank, int) and not isinstance(rank, bool) and rank > 0,
        "lora_alpha": isinstance(alpha, int | float) and not isinstance(alpha, bool) and abs(alpha) < float("inf"),
        "rank_pattern": isinstance(kept, dict) and all(map(mask, kept.values())),
    }
    refuse_wrong(config, fine, where)


_TRAINED_BY = set("beta1 beta2 deltaT orth_reg_weight target_r tfinal tinit total_step".split())
READ_ONLY = (
    Kind("ADALORA", (), ("lora_A", "lora_B", "lora_E"),
         COMMON | _TRAINED_BY | set("init_r init_lora_weights lora_alpha lora_dropout r rank_pattern".split()),
         _read_adalora, checked=_check_adalora),
    Kind("LN_TUNING", (), (), COMMON, whole="ln_tuning_layers"),
)  # fmt: skip
