"""Tokens that a recipe adds to a model's vocabulary, and whether two models speak the same ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from tunewright.errors import MethodError, RecipeError
from tunewright.loading.guard import embedding_of
from tunewright.loading.load import Loaded
from tunewright.models.adapted import Adapted
from tunewright.models.generators import undisturbed


def add_tokens(loaded: Loaded, tokens: Sequence[str]) -> None:
    """Add tokens to the vocabulary; each starts at the mean embedding, and is trained where embeddings train."""
    model: Any = loaded.model
    if loaded.tokenizer is not None and embedding_of(model) is None:
        what = f"a {model.config.model_type} model reads no text, so that there is no embedding to add to"
        raise RecipeError(what, where="new_tokens", remedy="leave it out")
    new = add_to_tokenizer(loaded.tokenizer, tokens)
    if len(loaded.tokenizer) > model.get_input_embeddings().weight.shape[0]:
        with undisturbed():
            model.resize_token_embeddings(len(loaded.tokenizer), mean_resizing=False)
    with torch.no_grad():
        for embedding in {
            id(e): e for e in (model.get_input_embeddings(), model.get_output_embeddings()) if e is not None
        }.values():
            ids = loaded.tokenizer.convert_tokens_to_ids(new)
            if ids:
                embedding.weight[ids] = embedding.weight[: min(ids)].mean(0)
    loaded.notes.append(f"{len(new)} tokens added to the vocabulary, started at the mean embedding")


def add_to_tokenizer(tokenizer: Any, tokens: Sequence[str]) -> list[str]:
    """Add those tokens that a tokenizer does not know, and return them. RecipeError where there is no tokenizer."""
    if tokenizer is None:
        raise RecipeError(
            "the task reads no text, so that there is no vocabulary to add to",
            where="new_tokens",
            remedy="leave it out",
        )
    known = set(tokenizer.get_vocab())
    new = [t for t in tokens if t not in known]
    tokenizer.add_tokens(new)
    return new


def new_rows(adapted: Adapted, tokens: Sequence[str]) -> dict[str, torch.Tensor]:
    """Flat places of the new tokens' rows in embedding and head: they train with every method, or they would mean
    nothing.
    """
    if not tokens:
        return {}
    ids = torch.tensor(sorted(adapted.tokenizer.convert_tokens_to_ids(list(tokens))))
    model: Any = adapted.model
    modules = [m for m in (model.get_input_embeddings(), model.get_output_embeddings()) if m is not None]
    weights = {id(m.weight): m.weight for m in modules}
    names = {id(p): n for n, p in adapted.base_parameters().items()}
    return {names[k]: (ids[:, None] * w.shape[1] + torch.arange(w.shape[1])).reshape(-1) for k, w in weights.items()}


def same_tokenizer(a: Loaded, b: Loaded, name: str) -> None:
    if a.tokenizer is None or b.tokenizer is None:
        return
    ours, theirs = a.tokenizer.get_vocab(), b.tokenizer.get_vocab()
    if ours != theirs:
        differing = sorted(set(ours) ^ set(theirs))[:3] or [t for t in ours if ours[t] != theirs.get(t)][:3]
        raise MethodError(
            (
                f"the model '{name}' has another tokenizer ({len(theirs)} tokens, here {len(ours)}; for instance "
                f"{differing})"
            ),
            where=f"models.{name}",
            remedy="use a model with the same tokenizer: its outputs are compared token by token",
        )
