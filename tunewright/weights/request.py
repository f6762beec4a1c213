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
    """One model of a merge with what it has of its own; `layers`: which of its blocks are taken, from and up to."""

    ref: str
    parameters: Mapping[str, Setting] = field(default_factory=dict)
    layers: tuple[int, int] | None = None


@dataclass(frozen=True)
class Section:
    """A part of the result that is merged from models of its own: some of the blocks of a module, or a whole module.

    `parameters` are for all its models, and stand before the request's. `base`: as in a request.
    """

    models: Sequence[Part]
    base: str | None = None
    parameters: Mapping[str, Setting] = field(default_factory=dict)
    module: str = "default"


@dataclass(frozen=True)
class Token:
    """Where a token's rows come from: `kind` "zero"; or "row", the row of `token` (none: of the token itself) or of
    `id` in `model`. `force`: in models that know the token too.
    """

    kind: Literal["zero", "row"]
    model: str | None = None
    token: str | None = None
    id: int | None = None
    force: bool = False


@dataclass(frozen=True)
class Vocabulary:
    """The result's tokenizer, by token: rows of embeddings and heads are put in its order before anything is merged.

    `source`: "union" (the base's, and every token that another model has beside), "base", or a model. `tokens`: rows
    that are chosen, and tokens to add; None: as other tokens. `multiple`: rows are filled up to a multiple of it.
    """

    source: str = "union"
    tokens: Mapping[str, Token | None] = field(default_factory=dict)
    multiple: int | None = None


@dataclass(frozen=True)
class Request:
    """A merge. `parameters` are for all models; `dtype` is what is stored (none: as the base or the first model stores
    it).

    `kind`: "model" writes a transformers folder, "delta" what differs from the base, "adapter" one PEFT adapter (of
    adapters). `tokenizer`: the model whose tokenizer is taken (none: the base's or the first model's). `shard_size` in
    bytes. `where` names the file that it came from. `mergekit`: parameters that are left out have mergekit's defaults,
    not the papers'. `then`: edits of the merged change. `sections`: parts with models of their own, in order; `models`
    are then all of them. `vocabulary` takes the place of `tokenizer`. `chat_template`: "auto" (the one that most models
    have), a name, or the template itself. `notes`: what was read and does nothing. `allow_crimes` (mergekit's
    word): models of other architectures, or whose config.json computes otherwise, are merged all the same.
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
    sections: Sequence[Section] = ()
    vocabulary: Vocabulary | None = None
    chat_template: str | None = None
    notes: Sequence[str] = ()
    allow_crimes: bool = False


def same_model(a: str, b: str | None) -> bool:
    """Whether two references are one model: equal, or one folder."""
    if b is None or a == b:
        return b is not None
    try:
        return Path(a).exists() and Path(b).exists() and Path(a).resolve() == Path(b).resolve()
    except (OSError, ValueError):  # no paths: too long, or with characters that no path has
        return False
