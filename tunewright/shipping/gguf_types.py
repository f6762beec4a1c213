"""The types that a GGUF file's matrices may have, who can make them, and how far each may be from what it stores."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.errors import MissingExtraError, RecipeError, did_you_mean

BLOCK = 32
"""Values that share a scale in the types that the `gguf` package makes."""
SLACK = 2.0**-10
"""Of a block's largest value, beside its step: scales are stored with 11 bits."""


@dataclass(frozen=True)
class Kind:
    """A type. `file`: its number as a file's type (llama.cpp's LLAMA_FTYPE). `steps`: a value is off by at most the
    block's largest over this (none: rounded to `bits` of
    mantissa). Neither: llama.cpp's tools make it."""

    file: int
    steps: float | None = None
    bits: int = 0

    @property
    def bounded(self) -> bool:
        """Whether the `gguf` package makes it, and its error is stated here."""
        return self.steps is not None or self.bits > 0


KINDS = {
    "f32": Kind(0, bits=24),
    "f16": Kind(1, bits=11),
    "bf16": Kind(32, bits=8),
    "q8_0": Kind(7, 254),
    "q5_1": Kind(9, 31),
    "q5_0": Kind(8, 16),
    "q4_1": Kind(3, 15),
    "q4_0": Kind(2, 8),
    "q6_k": Kind(18),
    "q5_k_m": Kind(17),
    "q5_k_s": Kind(16),
    "q4_k_m": Kind(15),
    "q4_k_s": Kind(14),
    "q3_k_m": Kind(12),
    "q2_k": Kind(10),
}
ALIASES = {"q4_k": "q4_k_m", "q5_k": "q5_k_m", "q3_k": "q3_k_m"}


def kind_of(name: str) -> str:
    """A type's name as the table has it. RecipeError for none."""
    low = name.lower()
    low = ALIASES.get(low, low)
    if low not in KINDS:
        raise RecipeError(f"'{name}' is no type of GGUF", where="--type", remedy=did_you_mean(low, KINDS))
    return low


def bound(values: NDArray[np.float32], kind: str) -> NDArray[np.float32]:
    """How far each of `values` [.., n] may be from what is stored of it (n a multiple of 32 for types in blocks)."""
    how = KINDS[kind]
    if how.steps is None:
        # half a unit in the last place; float16 below its smallest normal number has steps of 2^-24
        small = {"f16": 2.0**-24, "bf16": 2.0**-133, "f32": 0.0}[kind]
        return (np.abs(values) * 2.0**-how.bits + small).astype(np.float32)
    blocks = values.reshape(*values.shape[:-1], -1, BLOCK)
    most = np.abs(blocks).max(-1, keepdims=True)
    # types of two numbers a block reach from its smallest value to its largest
    span = blocks.max(-1, keepdims=True) - blocks.min(-1, keepdims=True) if kind.endswith("_1") else most
    share = 0.5 if kind.endswith("_1") else 1.0
    # a scale in float16 has steps of 2^-24 at least, and counts up to all steps of its block
    allowed = span * share / how.steps + most * SLACK + how.steps * 2.0**-25 + 2.0**-23
    return np.broadcast_to(allowed, blocks.shape).reshape(values.shape).astype(np.float32)


def quantised(values: NDArray[np.float32], kind: str) -> tuple[NDArray[Any], Any]:
    """(bytes or numbers as stored, the type in `gguf`) of a matrix; one whose rows are no multiple of a block is kept
    in float16.
    """
    from gguf import GGMLQuantizationType as Types
    from gguf.quants import quantize

    if KINDS[kind].steps and values.shape[-1] % BLOCK:
        kind = "f16"
    if kind == "f32":
        return values, Types.F32
    if kind == "f16":
        most = float(np.finfo(np.float16).max)
        return np.clip(values, -most, most).astype(np.float16), Types.F16
    which = getattr(Types, kind.upper())
    return quantize(values, which), which


def tool() -> str:
    """What makes the types of super-blocks (Q4_K and its kin) here: a path of `llama-quantize`, or "llama_cpp".

    MissingExtraError where neither is installed: the `gguf` package reads these types and does not write them.
    """
    import shutil
    from importlib.util import find_spec

    if (found := shutil.which("llama-quantize")) is not None:
        return found
    if find_spec("llama_cpp") is not None:
        return "llama_cpp"
    raise MissingExtraError(
        "only llama.cpp's own tool makes this type, and it is not installed",
        where="--type",
        remedy="put llama.cpp's llama-quantize on PATH or `pip install llama-cpp-python`; or write --type q8_0 or q4_0",
    )


def requantise(source: Path, target: Path, kind: str) -> str:
    """Let llama.cpp write `source` (of floats) as another type; return the tool's name. ModelError where it fails."""
    import subprocess

    from tunewright.errors import ModelError

    which = tool()
    if which == "llama_cpp":
        import llama_cpp

        params = llama_cpp.llama_model_quantize_default_params()
        params.ftype = KINDS[kind].file
        failed = llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), params)
        said = f"llama_model_quantize returned {failed}" if failed else ""
    else:
        done = subprocess.run(
            [which, str(source), str(target), kind.upper()],
            capture_output=True,
            text=True,
            check=False,
            errors="replace",
        )
        lines = (done.stderr or done.stdout).strip().splitlines()
        said = (lines[-1] if lines else f"exit code {done.returncode}") if done.returncode else ""
    if said or not target.is_file():
        raise ModelError(f"llama.cpp did not write it: {said or 'there is no file'}", where=str(target))
    return "llama-quantize" if which != "llama_cpp" else "llama-cpp-python"
