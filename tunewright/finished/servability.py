"""Whether common servers can load a run's change as an adapter beside the base, and if not, why.

What is said of vLLM is what its adapter reader checks (`vllm/lora/peft_helper.py`): one scale lora_alpha / r for all
modules, no field for patterns, no `modules_to_save`, ranks up to --max-lora-rank (16 unless set).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tunewright import catalogue
from tunewright.models.deltas import GatedLowRank, LowRank, LowRankFixedA
from tunewright.recipe import Recipe
from tunewright.runs.artefacts import IN_FEW_BITS
from tunewright.runs.folder import RECIPE

USUAL_RANK = 64
"""Ranks above it are refused by several servers' kernels."""
VLLM_DEFAULT_RANK = 16
LOW_RANK = {LowRank.form, GatedLowRank.form, LowRankFixedA.form}
GENERATES = "text-generation"


def servability(folder: Path | str) -> list[str]:
    """Reasons why servers that take LoRA adapters cannot load this run's change, or would answer differently; [] for
    none.

    Reads the run's files alone; the whole model, as `export` writes it, can be served in any case.
    """
    folder = Path(folder)
    reasons = []
    recipe = Recipe.load(folder / RECIPE)
    if recipe.task != GENERATES:
        reasons.append(f"adapter servers serve text-generation, and this model does {recipe.task}")
    config = folder / "adapter" / "adapter_config.json"
    if config.exists():
        reasons += adapter_reasons(json.loads(config.read_text(encoding="utf-8")))
        if any(catalogue.load_method(use.name).quantises for stage in recipe.stages for use in stage.methods):
            reasons.append(IN_FEW_BITS)
    else:
        reasons.append(_why_no_adapter(folder))
    if recipe.model.rope_scaling is not None:
        reasons.append(
            "the base's positions are scaled (model.rope_scaling): beside the plain base it answers otherwise"
        )
    if recipe.new_tokens:
        reasons.append(
            f"{len(recipe.new_tokens)} tokens were added to the vocabulary: an adapter does not carry their embeddings"
        )
    return reasons


def adapter_reasons(config: dict[str, Any], *, ranks_count: bool = True) -> list[str]:
    """The same of an adapter's settings; without `ranks_count` for a server that is started with the rank it needs."""
    if config.get("peft_type") != "LORA":
        return [f"the adapter is of PEFT's type {config.get('peft_type')}, and servers take LORA"]
    reasons = ["it is a DoRA (use_dora), which vLLM and most servers do not take"] if config.get("use_dora") else []
    ranks = {config["r"], *(config.get("rank_pattern") or {}).values()}
    most = max(ranks)
    if not ranks_count:
        pass
    elif most > USUAL_RANK:
        reasons.append(f"its rank is {most}: many servers stop at {USUAL_RANK} (vLLM: --max-lora-rank {most})")
    elif most > VLLM_DEFAULT_RANK:
        reasons.append(f"its rank is {most}: vLLM needs --max-lora-rank {_next_power(most)}")
    if config.get("target_parameters"):
        reasons.append(
            "layers beside the experts are named by their weights (target_parameters), or PEFT would take them for "
            "experts: that needs PEFT 0.17 or later"
        )
    scaled = _scales(config)
    if len(scaled) > 1:
        reasons.append(
            "modules differ in scale (rank_pattern, alpha_pattern), and vLLM applies one lora_alpha / r to "
            "all: its "
            "answers would differ"
        )
    odd = sorted(
        {name.rsplit(".", 1)[-1] for name in config["target_modules"]} & {"embed_tokens", "lm_head", "wte", "wpe"}
    )
    if odd:
        reasons.append(f"it changes {', '.join(odd)}, where many servers take no adapter")
    return reasons


def _scales(config: dict[str, Any]) -> set[float]:
    ranks, alphas = config.get("rank_pattern") or {}, config.get("alpha_pattern") or {}
    modules = config["target_modules"] if isinstance(config["target_modules"], list) else []
    scales = {round(float(alphas.get(m, config["lora_alpha"])) / ranks.get(m, config["r"]), 9) for m in modules}
    return scales | {round(config["lora_alpha"] / config["r"], 9)}


def _next_power(rank: int) -> int:
    return 1 << (rank - 1).bit_length()


def _why_no_adapter(folder: Path) -> str:
    if (folder / "wrapper").exists():
        return "the change wraps the model's forward: no server loads that"
    how = folder / "delta.json"
    about: dict[str, Any] = json.loads(how.read_text(encoding="utf-8")) if how.exists() else {}
    names = list(about.get("shapes", ()))
    if names:
        return f"the change is not low-rank: {len(names)} tensors of the base changed, such as {names[0]}"
    forms = sorted({d["form"] for by_name in about.get("deltas", {}).values() for d in by_name.values()} - LOW_RANK)
    return (
        f"the change is not low-rank alone: it holds {', '.join(forms)} parts"
        if forms
        else "there is no adapter in the run's folder"
    )
