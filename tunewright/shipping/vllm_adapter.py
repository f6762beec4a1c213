"""A LoRA as vLLM's reader takes it: one rank, one scale, no patterns, no whole modules.

Where modules differ in rank or scale, each A and B is filled up with zeros to the largest rank and the scale goes
into B: the products are the same.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tunewright.errors import MethodError, ModelError
from tunewright.files.cache import written_aside
from tunewright.files.tensors import save_tensors
from tunewright.finished.servability import servability
from tunewright.models import peft_format
from tunewright.models.peft_settings import CONFIG
from tunewright.recipe import Recipe
from tunewright.runs.folder import RECIPE
from tunewright.shipping.comparing import compare, fits_in_memory, logits_of, model_of
from tunewright.weights.opening import open_source
from tunewright.weights.source import Tuned

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes for --max-lora-rank."""
EMBEDDINGS = ("embed_tokens", "lm_head", "wte", "wpe")
MENDED = ("modules differ in scale", "its rank is")
"""How the reasons of `servability` begin that this form does away with, or that a flag of vLLM answers."""


def write(ref: Path, target: Path) -> tuple[list[str], dict[str, Any], list[str]]:
    """Write a run's adapter, or a PEFT adapter's folder, to `target`; return (checks, figures, notes).

    MethodError for a change that vLLM cannot take beside the base, by name; ModelError where products differ.
    """
    folder = ref
    if (ref / RECIPE).exists():
        if stay := [r for r in servability(ref) if not r.startswith(MENDED)]:
            raise MethodError(
                f"vLLM cannot take this change as an adapter: {'; '.join(stay)}",
                where=str(ref),
                remedy=f"serve it whole: tunewright export {ref}; or approximate it: tunewright extract-lora",
            )
        folder = ref / "adapter"
    parts = peft_format.read_parts(folder)
    _refuse(parts, folder)
    rank = max(len(A) for A, _ in parts.pairs.values())
    if rank > RANKS[-1]:
        raise MethodError(
            f"its rank is {rank}, and vLLM stops at {RANKS[-1]}",
            where=str(folder),
            remedy=f"fuse it, and cut it: tunewright extract-lora BASE FUSED --rank {RANKS[-1]}",
        )
    tensors: dict[str, Tensor] = {}
    worst = 0.0
    for site, (A, B) in parts.pairs.items():
        wide, tall = filled(A, B, parts.scales[site], rank)
        tensors[f"{peft_format.PREFIX}{site}.lora_A.weight"] = wide
        tensors[f"{peft_format.PREFIX}{site}.lora_B.weight"] = tall
        product = parts.scales[site] * (B.float() @ A.float())
        gap = float((tall.float() @ wide.float() - product).norm() / product.norm().clamp_min(1e-30))
        worst = max(worst, gap)
    if worst > 0.01:
        raise ModelError(f"a product differs by {worst:.2g}", where=str(folder), remedy="report this as a defect")
    config = {
        **{k: v for k, v in parts.config.items() if k in ("base_model_name_or_path", "task_type", "revision")},
        "peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": sorted(parts.pairs), "bias": "none",
        "fan_in_fan_out": bool(parts.config.get("fan_in_fan_out")), "inference_mode": True, "lora_dropout": 0.0,
        "use_rslora": False, "use_dora": False, "modules_to_save": None, "rank_pattern": {}, "alpha_pattern": {},
    }  # fmt: skip
    stored = peft_format.stored_base(folder)
    with written_aside(target) as aside:
        save_tensors(tensors, aside / peft_format.WEIGHTS, metadata={"format": "pt", "base_hash": stored})
        (aside / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    flag = next(r for r in RANKS if r >= rank)
    checks = [
        f"{len(parts.pairs)} products are those of the adapter (largest difference {worst:.2g} of a product's norm)"
    ]
    logits, notes = _logits(ref, folder, target)
    notes.append(f"vLLM itself did not read it: vllm serve BASE --enable-lora --max-lora-rank {flag} --lora-modules "
                 f"{shlex.quote(f'NAME={target}')}")  # fmt: skip
    figures = {"modules": len(parts.pairs), "rank": rank, "max_lora_rank": flag, "product_error": worst}
    if logits is not None:
        checks.append(f"on the base, against the adapter as it was: {logits}")
        figures["logits"] = logits.to_json()
    return checks, figures, notes


def filled(A: Tensor, B: Tensor, scale: float, rank: int) -> tuple[Tensor, Tensor]:
    """A [r, in] and s B [out, r], both of the rank that is asked for: the rest is zeros."""
    more = rank - len(A)
    wide = torch.cat([A, A.new_zeros(more, A.shape[1])]) if more else A
    tall = (B.float() * scale).to(B.dtype)
    return wide.contiguous(), (torch.cat([tall, tall.new_zeros(len(tall), more)], 1) if more else tall).contiguous()


def _refuse(parts: peft_format.Parts, folder: Path) -> None:
    if parts.values:
        raise MethodError(
            f"it holds whole modules (such as '{next(iter(parts.values))}'), which vLLM takes from no adapter",
            where=str(folder),
            remedy="serve the whole model: tunewright fuse BASE ADAPTER --out DIR",
        )
    if parts.kernels:
        raise MethodError(
            f"it changes the convolution '{min(parts.kernels)}', where vLLM takes no adapter",
            where=str(folder),
            remedy="serve the whole model: tunewright fuse BASE ADAPTER --out DIR",
        )
    if odd := sorted(s for s in parts.pairs if s.rpartition(".")[2] in EMBEDDINGS):
        raise MethodError(
            f"it changes '{odd[0]}', where vLLM takes no adapter",
            where=str(folder),
            remedy="serve the whole model: tunewright fuse BASE ADAPTER --out DIR",
        )


def _logits(ref: Path, folder: Path, target: Path) -> tuple[Any, list[str]]:
    """Logits of the base with the new adapter against the base with the old one."""
    base = Recipe.load(ref / RECIPE).model.name if (ref / RECIPE).exists() else None
    try:
        old, new = open_source(str(folder), base), open_source(str(target), base)
        assert isinstance(old, Tuned)
        if (why := fits_in_memory(old.base.folder)) is not None:
            return None, [why]
        return compare(logits_of(model_of(old)), logits_of(model_of(new))), []
    except ModelError as error:
        return None, [f"logits were not compared: {error}"]
