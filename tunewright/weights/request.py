"""What a merge is asked to do: method, models, parameters, output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tunewright.weights.settings import Setting

Step = tuple[str, Mapping[str, Any]]
"""An edit of the merged change: a method's name and its parameters."""
DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}


@dataclass(frozen=True)
class Part:
    """One model of a merge with what it has of its own."""

    ref: str
    parameters: Mapping[str, Setting] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """A merge. `parameters` are for all models; `dtype` is what is stored (none: as the base or the first model stores
    it).

    `kind`: "model" writes a transformers folder, "delta" what differs from the base, "adapter" one PEFT adapter (of
    adapters). `tokenizer`: the model whose tokenizer is taken (none: the base's or the first model's). `shard_size` in
    bytes. `where` names the file that it came from. `mergekit`: parameters that are left out have mergekit's defaults,
    not the papers'. `then`: edits of the merged change.
    """

    method: str
    models: Sequence[Part]
    out: Path
    base: str | None = None
    parameters: Mapping[str, Setting] = field(default_factory=dict)
    dtype: str | None = None
    kind: Literal["model", "delta", "adapter"] = "model"
    shard_size: int = 5_000_000_000
    tokenizer: str | None = None
    seed: int = 0
    threads: int | None = None
    where: str = "merge"
    mergekit: bool = False
    then: Sequence[Step] = ()
