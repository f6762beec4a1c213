"""The tensors of a PEFT adapter's file, read safely."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tunewright.errors import ModelError
from tunewright.files.regular import regular
from tunewright.models.peft_settings import CONFIG

WEIGHTS = "adapter_model.safetensors"


def read_tensors(folder: Path, base_hash: str) -> dict[str, Tensor]:
    """An adapter's tensors by key.

    ModelError for pickles, damaged files, values that are not finite and, where `base_hash` is given, another base.
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
        with safe_open(regular(file), framework="pt") as f:
            tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118 - the file is no mapping
    except (SafetensorError, OSError) as e:
        raise ModelError(
            f"not a readable safetensors file: {e}", where=str(file), remedy="save or download it again"
        ) from e
    stored_hash = stored_base(folder)
    if stored_hash and base_hash and stored_hash != base_hash:
        raise ModelError(
            f"the adapter belongs to another base (weights {stored_hash[:12]}, here {base_hash[:12]})",
            where=str(file),
            remedy=f"load the base that {CONFIG} names",
        )
    if bad := [k for k, t in tensors.items() if t.is_floating_point() and not bool(torch.isfinite(t).all())]:
        raise ModelError(
            f"'{bad[0]}' holds values that are not finite",
            where=str(file),
            remedy="save or download the adapter again; its training may have diverged",
        )
    return tensors


def stored_base(folder: Path) -> str:
    """The hash of the base that an adapter's file says it was made for; "" where it does not say."""
    with safe_open(folder / WEIGHTS, framework="pt") as f:
        return str((f.metadata() or {}).get("base_hash", ""))
