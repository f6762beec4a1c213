"""A plain LoRA of a pipeline's denoiser as diffusers' own file, which `pipe.load_lora_weights` reads.

The file is made from a PEFT adapter's: names are the same, without PEFT's beginning. What it does not say is how a
change is scaled: diffusers takes alpha for the rank then, so that the scale is multiplied into the second factor.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from tunewright.files.tensors import save_tensors

FILE = "pytorch_lora_weights.safetensors"
_START = "base_model.model."


def write_lora(adapter: Path) -> bool:
    """Write the file beside a PEFT adapter's; False, with nothing written, where the change is more than plain LoRA."""
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    tensors = load_file(adapter / "adapter_model.safetensors")
    plain = config.get("peft_type") == "LORA" and not config.get("use_dora") and config.get("bias", "none") == "none"
    if not plain or not all(n.endswith((".lora_A.weight", ".lora_B.weight")) for n in tensors):
        return False
    out = {}
    for name, x in tensors.items():
        scaled = x * _scale(name, config) if name.endswith(".lora_B.weight") else x
        out[name.removeprefix(_START)] = scaled.to(x.dtype).contiguous()
    save_tensors(out, adapter / FILE)
    return True


def _scale(name: str, config: dict[str, Any]) -> float:
    """alpha over the rank (its root with use_rslora) of the layer that a tensor belongs to."""
    layer = name.removeprefix(_START).rsplit(".lora_", 1)[0]

    def own(pattern: str, otherwise: float) -> float:
        told = (v for k, v in (config.get(pattern) or {}).items() if re.match(rf"(.*\.)?({k})$", layer))
        return float(next(told, otherwise))

    rank, alpha = own("rank_pattern", config["r"]), own("alpha_pattern", config["lora_alpha"])
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
