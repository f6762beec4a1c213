"""Low-rank changes in PEFT's adapter format, out and in: `adapter_config.json` and `adapter_model.safetensors`.

Keys are "base_model.model.<module>.lora_A.weight" [r, in] and "...lora_B.weight" [out, r]. A delta with a frozen
offset, s (B A - B0 A0), is written at rank 2r; several deltas on one module at the sum of their ranks. What other
loaders see is the plain s B A with s = alpha / r.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tunewright.errors import ModelError, did_you_mean
from tunewright.files.tensors import save_tensors
from tunewright.models.adapted import Adapted
from tunewright.models.deltas import LowRank, attach
from tunewright.models.sites import Site

CONFIG, WEIGHTS, PREFIX = "adapter_config.json", "adapter_model.safetensors", "base_model.model."
EDIT_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
TASK_TYPES = {
    "ForCausalLM": "CAUSAL_LM",
    "LMHeadModel": "CAUSAL_LM",
    "ForSequenceClassification": "SEQ_CLS",
    "ForTokenClassification": "TOKEN_CLS",
}


def save_adapter(adapted: Adapted, folder: Path | str, base_name: str) -> int:
    """Write the model's low-rank deltas, at their present strength; return the number of tensors written.

    ModelError when the change is not low-rank alone: then `delta_format.save_delta` is the way.
    """
    parts = {site: _combined(site, list(by_name.values())) for site, by_name in adapted.deltas().items()}
    if adapted.originals or not parts:
        what = "tensors of the base itself changed" if adapted.originals else "there is no low-rank delta"
        raise ModelError(
            f"this change cannot be a PEFT adapter: {what}",
            remedy="save it as delta.safetensors, or export the whole model",
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for site, (A, B, _) in parts.items():
        tensors[f"{PREFIX}{site}.lora_A.weight"], tensors[f"{PREFIX}{site}.lora_B.weight"] = (
            A.contiguous(),
            B.contiguous(),
        )
    save_tensors(tensors, folder / WEIGHTS, metadata={"format": "pt", "base_hash": adapted.base_hash})
    transposed = any(adapted.structure.site(s).kind == "conv1d" for s in parts)
    config = config_of({s: len(A) for s, (A, _, _) in parts.items()}, {s: scale for s, (_, _, scale) in parts.items()})
    kind = type(adapted.model).__name__
    config |= {
        "base_model_name_or_path": base_name,
        "fan_in_fan_out": transposed,
        "task_type": next((t for end, t in TASK_TYPES.items() if kind.endswith(end)), None),
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return len(tensors)


def _combined(site: str, deltas: list[Any]) -> tuple[Tensor, Tensor, float]:
    """(A, B, scale) of all deltas of a module together."""
    for d in deltas:
        if not isinstance(d, LowRank):
            raise ModelError(
                f"a {d.form} delta has no place in a PEFT adapter",
                where=site,
                remedy="save it as delta.safetensors, or export the whole model",
            )
    pairs = [(*d.pair(), d.scale * d.strength * d.active) for d in deltas]
    if len(pairs) == 1 and pairs[0][2]:
        A, B, scale = pairs[0]
        return A.detach(), B.detach(), scale
    return torch.cat([A for A, _, _ in pairs]).detach(), torch.cat([B * s for _, B, s in pairs], dim=1).detach(), 1.0


def config_of(ranks: Mapping[str, int], scales: Mapping[str, float]) -> dict[str, Any]:
    """PEFT's fields; the commonest rank and alpha stand for all, patterns name the rest by full module name."""
    alphas: dict[str, int | float] = {s: _whole(scales[s] * r) for s, r in ranks.items()}
    rank, alpha = Counter(ranks.values()).most_common(1)[0][0], Counter(alphas.values()).most_common(1)[0][0]
    return {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {s: r for s, r in ranks.items() if r != rank},
        "alpha_pattern": {s: a for s, a in alphas.items() if a != alpha},
        "target_modules": sorted(ranks),
        "use_rslora": False,
        "use_dora": False,
        "lora_dropout": 0.0,
        "bias": "none",
        "modules_to_save": None,
        "init_lora_weights": True,
        "inference_mode": True,
    }


def _whole(x: float) -> int | float:
    return round(x) if abs(x - round(x)) < 1e-9 else x


def load_adapter(adapted: Adapted, folder: Path | str, name: str = "adapter") -> int:
    """Attach a PEFT LoRA adapter under `name`, strictly; return the number of tensors loaded.

    ModelError for what is no LoRA adapter, for another base (hash or shapes), and for missing or unknown keys.
    """
    folder = Path(folder)
    config, tensors = read_config(folder), read_tensors(folder, adapted.base_hash)
    sites: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        match = re.fullmatch(re.escape(PREFIX) + r"(.+)\.lora_([AB])\.weight", key)
        if not match:
            raise ModelError(
                f"the key '{key}' is no low-rank part of a linear layer",
                where=str(folder / WEIGHTS),
                remedy="merge this adapter with PEFT and load the merged model",
            )
        sites.setdefault(match[1], {})[match[2]] = tensor
    known = {s.name: s for s in adapted.structure.sites}
    deltas = {n: _delta(known, n, parts, config, folder) for n, parts in sites.items()}
    expected = (
        {n for n in known if _targeted(config["target_modules"], n)}
        if config.get("layers_to_transform") is None
        else set(deltas)
    )
    if missing := sorted(n for n in expected - set(deltas) if known[n].kind in ("linear", "conv1d")):
        raise ModelError(
            f"{len(missing)} targeted layers have no tensors here, such as '{missing[0]}'",
            where=str(folder / WEIGHTS),
            remedy="the file is incomplete: save or download it again",
        )
    for n, delta in deltas.items():
        attach(known[n], name, delta)
    return len(tensors)


def read_config(folder: Path) -> dict[str, Any]:
    """An adapter's settings. ModelError for what is more than low-rank parts, or no LoRA."""
    where = str(folder / CONFIG)
    try:
        config: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"there is no {CONFIG}", where=str(folder), remedy="name the folder of a PEFT adapter"
        ) from None
    except ValueError as e:
        raise ModelError(f"not readable as JSON: {e}", where=where, remedy="save or download the adapter again") from e
    if config.get("peft_type") != "LORA":
        raise ModelError(
            f"the adapter's type is {config.get('peft_type')}; LORA can be loaded",
            where=where,
            remedy="merge it with PEFT and load the merged model",
        )
    edits = str(config.get("init_lora_weights", "")).startswith(EDIT_THE_BASE)
    unknown = {
        n: config.get(n)
        for n in (
            "use_dora",
            "modules_to_save",
            "lora_bias",
            "layer_replication",
            "trainable_token_indices",
            "target_parameters",
        )
        if config.get(n)
    }
    if edits or unknown or config.get("bias", "none") != "none":
        what = (
            f"init_lora_weights: {config['init_lora_weights']}"
            if edits
            else ", ".join(f"{n}: {v}" for n, v in unknown.items()) or f"bias: {config['bias']}"
        )
        raise ModelError(
            f"the adapter is more than low-rank parts ({what})",
            where=where,
            remedy="convert it to plain LoRA, or merge it with PEFT and load the merged model",
        )
    return config


def read_tensors(folder: Path, base_hash: str) -> dict[str, Tensor]:
    """An adapter's tensors by key.

    ModelError for pickles, damaged files and, where `base_hash` is given, another base.
    """
    file = folder / WEIGHTS
    if not file.exists():
        pickled = (folder / "adapter_model.bin").exists()
        reason = (
            "its weights are pickled (adapter_model.bin), which can run code when opened"
            if pickled
            else f"there is no {WEIGHTS}"
        )
        raise ModelError(reason, where=str(folder), remedy="save the adapter in safetensors format")
    try:
        with safe_open(file, framework="pt") as f:
            stored_hash = (f.metadata() or {}).get("base_hash")
            tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118 - the file is no mapping
    except SafetensorError as e:
        raise ModelError(
            f"not a readable safetensors file: {e}", where=str(file), remedy="save or download it again"
        ) from e
    if stored_hash and base_hash and stored_hash != base_hash:
        raise ModelError(
            f"the adapter belongs to another base (weights {stored_hash[:12]}, here {base_hash[:12]})",
            where=str(file),
            remedy=f"load the base that {CONFIG} names",
        )
    return tensors


def _delta(
    known: Mapping[str, Site], name: str, parts: Mapping[str, Tensor], config: Mapping[str, Any], folder: Path
) -> LowRank:
    where = str(folder / WEIGHTS)
    if name not in known:
        raise ModelError(
            f"this model has no layer '{name}'",
            where=where,
            remedy=f"load the base that the adapter was made for; {did_you_mean(name, known)}",
        )
    if set(parts) != {"A", "B"}:
        raise ModelError(
            f"'{name}' has lora_{'/'.join(sorted(parts))} alone",
            where=where,
            remedy="the file is incomplete: save or download it again",
        )
    A, B, site = parts["A"].float(), parts["B"].float(), known[name]
    rank = by_pattern(config.get("rank_pattern") or {}, name, config["r"])
    expected = (rank, site.in_features), (site.out_features, rank)
    if (tuple(A.shape), tuple(B.shape)) != expected:
        shapes = f"A {tuple(A.shape)}, B {tuple(B.shape)}"
        raise ModelError(
            f"'{name}' does not fit: {shapes}, expected A {expected[0]}, B {expected[1]}",
            where=where,
            remedy="load the base that the adapter was made for",
        )
    alpha = by_pattern(config.get("alpha_pattern") or {}, name, config.get("lora_alpha", 8))
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return LowRank(A, B, scale, dropout=float(config.get("lora_dropout") or 0.0))


def by_pattern(patterns: Mapping[str, Any], name: str, default: Any) -> Any:
    """PEFT's rule: the first key that, as a regular expression, is the name or an ending of it after a dot."""
    return next((v for key, v in patterns.items() if re.match(rf"(.*\.)?({key})$", name)), default)


def _targeted(target_modules: Any, name: str) -> bool:
    if isinstance(target_modules, str):
        return target_modules != "all-linear" and re.fullmatch(target_modules, name) is not None
    return any(name == t or name.endswith("." + t) for t in target_modules or ())
