"""A folder that mlx-lm loads: transformers' own safetensors, config and tokenizer, with the older names of rotary
settings, which `finished.export` writes too.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tunewright.errors import MethodError, ModelError
from tunewright.loading.portable import portable_config
from tunewright.shipping.comparing import compare, fits_in_memory, logits_of, model_of, tokens_for
from tunewright.weights.source import Source

AGREES = 0.02
"""Root mean square difference of logits, over their standard deviation, of two libraries' float32 on one processor."""


def check(folder: Path) -> tuple[list[str], dict[str, Any], list[str]]:
    """(checks, figures, notes) of a transformers folder, read by mlx-lm where it is installed. Settings are written
    under both names. MethodError for an architecture that mlx-lm does not have; ModelError for logits that differ.
    """
    portable_config(folder)
    if find_spec("mlx_lm") is None or find_spec("mlx") is None:
        return [], {}, ["mlx-lm did not read it: it is not installed (`pip install mlx-lm`; on Linux `mlx[cpu]` too)"]
    import mlx.core as mx
    import mlx_lm.utils as library

    if (why := fits_in_memory(folder, 2)) is not None:
        return [], {}, [why]
    source = Source(folder, str(folder), "", None)
    model = model_of(source)
    source.close()
    ids = tokens_for(model)
    try:
        theirs, _ = library.load_model(folder)
    except ValueError as error:
        raise MethodError(
            f"mlx-lm does not read it: {error}", where=str(folder), remedy="export to gguf, or a plain folder"
        ) from error
    theirs.set_dtype(mx.float32)
    said = theirs(mx.array(ids.tolist()))
    import numpy as np
    import torch

    told = compare(logits_of(model, ids), torch.from_numpy(np.array(said)).float())
    if told.rms > AGREES:
        raise ModelError(
            f"mlx-lm reads it as another model: {told}", where=str(folder), remedy="report this as a defect"
        )
    return [f"loaded by mlx-lm, against transformers, both in float32: {told}"], {"logits": told.to_json()}, []
