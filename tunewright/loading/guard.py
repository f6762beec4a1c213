"""What can go wrong while a model is loaded, as one message each: whatever its files hold, no traceback.

A model's files are written by strangers. They say what a model is, and never which code runs: settings that choose a
kernel, a package or a quantised layer are taken out or refused before the library sees them.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tunewright.errors import ModelError, TunewrightError
from tunewright.files.hashing import read_header, weight_files
from tunewright.models.probing import small_inputs

os.environ.setdefault(
    "USE_HUB_KERNELS", "NO"
)  # read when transformers is first imported: kernels are code, unasked for

CHOOSES_CODE = ("attn_implementation", "experts_implementation")
"""Settings by which a config names the code of a layer: a package (flash attention) or a kernel on the hub."""
FAR = 1 << 20
"""Ids that a vocabulary may leave out: some keep thousands for later."""
NO_MEMORY = ("not enough memory", "can't allocate memory", "cannot allocate memory", "out of memory")


def said(e: BaseException) -> str:
    """An error of a library in one line: the last that says something, where the first only announces it."""
    lines = [line.strip() for line in str(e).strip().splitlines() if line.strip()]
    if not lines:
        return type(e).__name__
    line = lines[-1] if lines[0].endswith((":", "'")) and len(lines) > 1 else lines[0]
    return f"{type(e).__name__}: {line}" if isinstance(e, LookupError | ZeroDivisionError | TypeError) else line


def lacks_memory(e: BaseException) -> bool:
    """Whether an error says that memory ran out, in any library's words."""
    if isinstance(e, MemoryError | torch.OutOfMemoryError) or (isinstance(e, OSError) and e.errno == errno.ENOMEM):
        return True
    return isinstance(e, RuntimeError | OSError) and any(words in str(e).lower() for words in NO_MEMORY)


@contextmanager
def guarded(what: str, where: Path, remedy: str = "download the model again") -> Iterator[None]:
    """Turn whatever a library raises inside into one ModelError; ours pass as they are."""
    try:
        yield
    except TunewrightError:
        raise
    except Exception as e:
        if lacks_memory(e):
            raise ModelError(
                f"there is not enough memory to load the model, whose files take {_gigabytes(where)}",
                where=str(where),
                remedy="use a smaller model or precision: bfloat16, or free memory that other programs hold",
            ) from e
        raise ModelError(f"{what}: {said(e)}", where=str(where), remedy=remedy) from e


def _gigabytes(folder: Path) -> str:
    try:
        return f"{sum(f.stat().st_size for f in weight_files(folder)) / 1e9:.2g} GB"
    except (TunewrightError, OSError):
        return "more than there is"


def without_chosen_code(config: Any) -> list[str]:
    """Take out of a config, and of those inside it, what would choose the code of its layers; return what it was."""
    found: list[str] = []
    for name in CHOOSES_CODE:
        hidden = f"_{name}_internal"
        value = getattr(config, hidden, None)
        if value is not None:
            found.append(f"{name}: {value}")
            setattr(config, hidden, None)
    for part in list(vars(config).values()):
        if type(part).__name__.endswith("Config") and hasattr(part, "model_type"):
            found += without_chosen_code(part)
    return list(dict.fromkeys(found))


def check_ids(tokenizer: Any, folder: Path) -> None:
    """ModelError for a vocabulary with an id far beyond its size: its library counts through all the ids between."""
    vocabulary = tokenizer.get_vocab()
    token = max(vocabulary, key=vocabulary.__getitem__, default=None)
    if token is not None and vocabulary[token] > FAR + 16 * len(vocabulary):
        raise ModelError(
            f"the tokenizer's vocabulary has {len(vocabulary)} tokens, and the id of {token!r:.40} is "
            f"{vocabulary[token]}",
            where=str(folder / "tokenizer.json"),
            remedy="download the model again: ids are places in the embedding",
        )


def check_finite(model: nn.Module, folder: Path, but: Collection[str] = ()) -> None:
    """ModelError that names the tensors of a model, `but` for some, that hold NaN or infinite values."""
    state = [
        *((n, p) for n, p in model.named_parameters() if n not in but),
        *((n, b) for n, b in model.named_buffers() if ".running_" in f".{n}"),
    ]
    bad = [(n, t.detach()) for n, t in state if t.is_floating_point() and t.numel() and not _finite(t.detach())]
    if bad:
        name, t = bad[0]
        nans, total = int(t.isnan().sum()), int((~t.isfinite()).sum())
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise ModelError(
            f"the model's weights are not all finite: '{name}' holds {nans} NaN and {total - nans} infinite values of "
            f"{t.numel()}{more}",
            where=str(folder),
            remedy="download the model again, or take it from before its training broke down",
        )


def _finite(t: torch.Tensor) -> bool:
    # a sum needs no second tensor; where it overflows, each value is looked at
    return bool(t.sum().isfinite()) or bool(t.isfinite().all())


@torch.no_grad()
def check_causal(model: Any, folder: Path) -> None:
    """ModelError for a language model whose predictions follow tokens that come after: it would see what it learns."""
    inputs = small_inputs(model)
    if inputs is None:
        return
    first = inputs["input_ids"]
    other = first.clone()
    other[0, -1] = first[0, 0]
    try:
        moved = (model(input_ids=first).logits.float() - model(input_ids=other).logits.float()).abs().amax(-1)[0]
    except Exception:  # a model that cannot be run on a few tokens says so where it is used
        return
    if float(moved[:-1].max()) > 1e-2 * float(moved[-1]):
        raise ModelError(
            f"a {model.config.model_type} model sees the tokens that come after, and so cannot learn to predict them",
            where=str(folder),
            remedy="use a causal language model; text-classification takes such models too",
        )


def another_shape(config: Any, auto: Any, folder: Path) -> str | None:
    """The first tensor of the files that is of another shape than the config makes it, as a phrase."""
    try:
        with torch.device("meta"):
            shapes = {n: tuple(t.shape) for n, t in auto.from_config(config).state_dict().items()}
    except Exception:  # the phrase is an extra: the error that asked for it is said in any case
        return None
    for file in weight_files(folder):
        for t in read_header(file):
            if shapes.get(t.name, t.shape) != t.shape:
                return f"'{t.name}' is {t.shape}, where config.json makes it {shapes[t.name]}"
    return None


def embedding_of(model: Any) -> Any:
    """What embeds tokens; None in a model that reads none."""
    try:
        return model.get_input_embeddings()
    except NotImplementedError:
        return None
