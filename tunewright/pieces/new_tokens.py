"""Special tokens that a method adds to a model's vocabulary before training."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch

from tunewright.contract.method import torch_generator
from tunewright.models.generators import undisturbed


def add_tokens(model: Any, tokenizer: Any, texts: Sequence[str], rng: random.Random | None = None) -> None:
    """Add those of the special tokens that the tokenizer lacks; generation is told never to write them.

    The row of each in the embedding (and in a head of its own) is the mean of the others. With `rng` a draw as wide as
    they are is added, so that several new tokens differ where embeddings do not train.
    """
    known = set(tokenizer.get_vocab())
    if not (new := [t for t in texts if t not in known]):
        return
    tokenizer.add_special_tokens({"additional_special_tokens": new}, replace_extra_special_tokens=False)
    ids = tokenizer.convert_tokens_to_ids(new)
    old = [m.weight[: min(ids)].detach().float() for m in _tables(model)]
    starts = [(t.mean(0), t.std(0)) for t in old]
    if max(ids) >= model.get_input_embeddings().num_embeddings:
        with undisturbed():  # the library draws the new rows before we overwrite them
            model.resize_token_embeddings(max(ids) + 1, mean_resizing=False)
    generator = torch_generator(rng) if rng is not None else None
    with torch.no_grad():
        for module, (mean, width) in zip(_tables(model), starts, strict=True):
            drawn = torch.randn(len(ids), len(mean), generator=generator) if generator is not None else torch.zeros(())
            rows = mean + width * drawn.to(mean.device)
            module.weight[ids] = rows.to(module.weight.dtype) if rows.dim() == 2 else rows
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.suppress_tokens = sorted({*(model.generation_config.suppress_tokens or []), *ids})


def _tables(model: Any) -> list[Any]:
    tables = [model.get_input_embeddings(), model.get_output_embeddings()]
    return [t for i, t in enumerate(tables) if t is not None and all(t.weight is not u.weight for u in tables[:i])]
