"""The verb `fuse`: a base and an adapter (or a saved change, or a run) as one plain transformers folder.

The merge engine writes it, tensor by tensor; then the folder is held to the base with the change beside it.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunewright.errors import MethodError, ModelError, RecipeError, did_you_mean
from tunewright.files.aside import set_aside
from tunewright.recipe import Recipe
from tunewright.runs.folder import RECIPE
from tunewright.shipping.comparing import Compared, compare, fits_in_memory, logits_of, model_of, reads_tokens
from tunewright.weights.opening import open_source
from tunewright.weights.reading import run_of
from tunewright.weights.request import DTYPES, Part, Request
from tunewright.weights.source import Tuned
from tunewright.weights.stream import merge
from tunewright.weights.write import size_of

LIMIT = {"F32": 1e-3, "BF16": 0.35, "F16": 0.05, "F64": 1e-3}
"""Largest difference of logits, over their standard deviation, that rounding to a stored type explains (bfloat16's as
in `tunewright.finished.export`)."""


@dataclass
class Fused:
    """What was written: how many tensors, how many of them the change touches, the type that is stored, and the
    folder's logits against those of the base with the change in float32 (None where memory did not suffice: `notes`).
    """

    folder: Path
    tensors: int
    changed: int
    dtype: str
    seconds: float
    logits: Compared | None
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {
            **{k: getattr(self, k) for k in ("tensors", "changed", "dtype", "seconds", "notes")},
            "folder": str(self.folder),
            "logits": self.logits and self.logits.to_json(),
        }


def fuse(base: str, adapter: str, out: Path, *, dtype: str | None = None, shard_size: str = "5GB") -> Fused:
    """Write `base` with `adapter` folded into its weights to `out`.

    `adapter`: a PEFT LoRA, a saved change, or a finished run's folder. `dtype`: bfloat16, float16 or float32 (none: as
    the base stores each tensor). MethodError for a run that added tokens; ModelError for what is no change of this
    base, and for a folder whose logits are not the change's own; FolderError for an output that exists.
    """
    if dtype is not None and dtype not in DTYPES:
        raise RecipeError(f"no weights are stored as '{dtype}'", where="--dtype", remedy=f"write {', '.join(DTYPES)}")
    size = size_of(shard_size)
    _whole(Path(adapter))
    if not Path(adapter).exists() and adapter.count("/") != 1:
        parent = Path(adapter).parent
        near = sorted(p.name for p in parent.iterdir() if p.is_dir()) if parent.is_dir() else []
        raise ModelError(
            "no adapter, saved change or run is there", where=adapter, remedy=did_you_mean(Path(adapter).name, near)
        )
    change = open_source(adapter, base)
    if not isinstance(change, Tuned):
        raise ModelError(
            "this is a whole model, and no change of a base",
            where=adapter,
            remedy="name an adapter's folder, a saved change or a run; `tunewright merge` merges whole models",
        )
    touched = sum(change.touches(n) for n in change.entries)
    request = Request("linear", [Part(adapter)], out, base=base, dtype=dtype, shard_size=size, where="fuse")
    merged = merge(request)
    notes, logits = list(merged.notes), None
    stored = sorted({open_source(str(out)).stored_type(n) for n in change.changes})
    if (why := fits_in_memory(change.base.folder)) is not None:
        notes.append(why)
    else:
        limit = max(LIMIT[s] for s in stored)
        try:
            model = model_of(change)
            beside, numbers = logits_of(model), not reads_tokens(model)
            logits = compare(beside, logits_of(model_of(open_source(str(out)))), numbers=numbers)
        except BaseException:  # what was not checked must not be taken for what was
            shutil.rmtree(out, ignore_errors=True)
            raise
        if not logits.largest <= limit:  # nan too
            raise ModelError(
                f"the folder's logits differ by {logits.largest:.2g} standard deviations from those of the base "
                f"with the change in float32, where rounding explains {limit:.2g}",
                where=str(set_aside(out)),
                remedy="store a wider type: --dtype float32",
            )
    names = {v: k for k, v in DTYPES.items()}
    kinds = ", ".join(names.get(s, s) for s in stored)
    return Fused(out, merged.tensors, touched, kinds, round(merged.seconds, 3), logits, notes)


def _whole(adapter: Path) -> None:
    """MethodError for a run's change that is more than its adapter: tokens that it added to the vocabulary."""
    run = run_of(adapter)
    if run is not None and (tokens := Recipe.load(run / RECIPE).new_tokens):
        raise MethodError(
            f"this run added {len(tokens)} tokens to the vocabulary, which its adapter does not carry",
            where=str(run),
            remedy=f"write its model: tunewright export {run}",
        )


def page(fused: Fused) -> str:
    """The result in a few lines."""
    lines = [
        f"{fused.folder} is written: a plain transformers folder; the change is folded into {fused.changed} of its "
        f"{fused.tensors} tensors, stored as {fused.dtype}"
    ]
    if fused.logits is not None:
        lines.append(f"against the base with the change, both in float32: {fused.logits}")
    return "\n".join([*lines, *(f"note: {n}" for n in fused.notes)])
