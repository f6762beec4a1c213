"""Weights that are stored quantised, told by config.json alone: read, or refused with what to use instead.

Imports no torch: merges ask too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunewright.errors import ModelError

WHOLE = ("mxfp4", "fp8")
"""Stored forms that transformers makes whole again on any machine, as it reads them."""
NAMES = {"bitsandbytes": "bitsandbytes", "gptq": "GPTQ", "awq": "AWQ", "compressed-tensors": "compressed-tensors"}


def refuse_quantised(written: Mapping[str, Any], folder: Path, whole: tuple[str, ...] = WHOLE) -> str | None:
    """ModelError for weights that are stored quantised in a form that needs a package's own layers.

    Returns the form's name where it is one of `whole`, that are made whole while they are read; None for plain weights.
    """
    parts = [written, *(v for v in written.values() if isinstance(v, Mapping))]
    for part in parts:
        settings = part.get("quantization_config") or part.get("compression_config")
        if not settings:
            continue
        method = settings.get("quant_method") if isinstance(settings, Mapping) else None
        if method in whole and part is written:
            return str(method)
        if method is None and isinstance(settings, Mapping) and (settings.keys() & {"load_in_4bit", "load_in_8bit"}):
            method = "bitsandbytes"
        kind = (
            f"by {NAMES.get(method, method)}" if isinstance(method, str) else "in a form that config.json does not name"
        )
        raise ModelError(
            f"its weights are stored quantised {kind}: they are read by that package's own layers, not here",
            where=str(folder / "config.json"),
            remedy="use the model's own unquantised weights; the method qlora holds them in 4 bits by itself",
        )
    return None
