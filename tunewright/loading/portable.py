"""Write config and tokenizer so that transformers 4 and 5, and servers built on either, load them alike.

transformers 5 writes a model's rotary embedding under `rope_parameters` alone, which version 4 and servers of its time
do not know: they would take their own defaults (a base of 10,000, no scaling) without a word. Both spellings are
written, as they are of the few other settings whose names changed: version 5 reads the same values from either.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LAYERS = ("full_attention", "sliding_attention")
LOCAL = {"gemma3": "rope_local_base_freq", "t5gemma2": "rope_local_base_freq", "modernbert": "local_rope_theta"}
"""How version 4 calls the base of sliding layers, by how the model's type begins; other types have one for all."""
OLD_NAMES = (
    "rope_theta",
    "rope_scaling",
    "rope_local_base_freq",
    "global_rope_theta",
    "local_rope_theta",
    "partial_rotary_factor",
    "rotary_pct",
    "rotary_emb_base",
    "original_max_position_embeddings",
    "global_attn_every_n_layers",
    "num_experts",
)
"""Names of version 4 that version 5 takes in and does not write."""


def portable_config(folder: Path, base: Path | None = None) -> None:
    """Add version 4's names to a folder's config.json: as `base`, the folder it came from, has them, else derived."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    before: Any = {}
    if base is not None and (base / "config.json").exists():
        before = json.loads((base / "config.json").read_text(encoding="utf-8"))
    before = before if isinstance(before, dict) else {}
    _add_old_names(config, before)
    if "rescale_every" in config and "rescale_every" in before:
        config["rescale_every"] = before["rescale_every"]  # switched off while the model is in use (see `load`)
    if "dtype" in config:
        config.setdefault("torch_dtype", config["dtype"])
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _add_old_names(config: dict[str, Any], before: Mapping[str, Any]) -> None:
    """In place, for a config and the configs inside it (a vision-language model's text part)."""
    for name, part in config.items():
        if isinstance(part, dict) and name != "rope_parameters":
            inner = before.get(name)
            _add_old_names(part, inner if isinstance(inner, dict) else {})
    kind, rope = str(config.get("model_type")), config.get("rope_parameters")
    derived = old_names(kind, rope) if isinstance(rope, dict) and rope else {}
    if kind.startswith("qwen3") and "num_local_experts" in config:
        derived["num_experts"] = config["num_local_experts"]
    if kind.startswith("modernbert") and "full_attention" in (layers := config.get("layer_types") or []):
        whole = [i for i, layer in enumerate(layers) if layer == "full_attention"]
        derived["global_attn_every_n_layers"] = whole[1] - whole[0] if len(whole) > 1 else len(layers)
    kept = {n: before[n] for n in OLD_NAMES if before.get(n) is not None}
    for name, value in (derived | kept).items():
        if config.get(name) is None:
            config[name] = value


def old_names(model_type: str, rope: Mapping[str, Any]) -> dict[str, Any]:
    """Version 4's names and values of `rope_parameters`, flat or one for each kind of layer."""
    layers = [rope[k] for k in LAYERS if isinstance(rope.get(k), Mapping)]
    if not layers:
        return _flat(model_type, rope) if not any(isinstance(v, Mapping) for v in rope.values()) else {}
    names = _flat(model_type, layers[0])
    local = next((name for start, name in LOCAL.items() if model_type.startswith(start)), None)
    if local is not None and len(layers) > 1:
        names[local] = layers[1].get("rope_theta")
        if local == "local_rope_theta":
            names["global_rope_theta"] = names.pop("rope_theta")
            names.pop("rope_scaling", None)  # version 5 would take it for the sliding layers too
    return names


def _flat(model_type: str, rope: Mapping[str, Any]) -> dict[str, Any]:
    part, theta = rope.get("partial_rotary_factor"), rope.get("rope_theta")
    names: dict[str, Any] = {"rope_theta": theta}
    if model_type.startswith("gpt_neox"):
        names = {"rotary_emb_base": theta, "rotary_pct": part}
    elif part is not None:
        names["partial_rotary_factor"] = part
    kind = rope.get("rope_type", "default")
    if kind != "default":
        rest = {k: v for k, v in rope.items() if k not in ("rope_theta", "partial_rotary_factor")}
        names["rope_scaling"] = {**rest, "type": kind}
        if kind == "longrope":
            names["original_max_position_embeddings"] = rope.get("original_max_position_embeddings")
            if model_type.startswith(("phi3", "phi4")):  # these take three fields and no other
                names["rope_scaling"] = {k: names["rope_scaling"][k] for k in ("type", "short_factor", "long_factor")}
    return {n: v for n, v in names.items() if v is not None}


def portable_tokenizer(folder: Path) -> None:
    """Name the tokenizer's class as both versions know it; the files are otherwise the same."""
    path = folder / "tokenizer_config.json"
    if not path.exists():
        return
    config = json.loads(path.read_text(encoding="utf-8"))
    if config.get("tokenizer_class") == "TokenizersBackend":
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
        config.pop("backend", None)
    more = config.get("extra_special_tokens")
    if isinstance(more, list):  # version 4 wants a dictionary there, and has another name for a list
        config.pop("extra_special_tokens")
        config.setdefault("additional_special_tokens", more)
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False), encoding="utf-8")
