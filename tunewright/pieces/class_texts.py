"""Classes in words: what the texts of a stage's rows are as vectors, and which of them a row's own is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from tunewright.contract.batch import Batch
from tunewright.errors import MethodError
from tunewright.models.adapted import Adapted
from tunewright.models.modes import evaluating
from tunewright.models.prompt import leave_room
from tunewright.models.text_contexts import padded, text_features, token_embedding

CHUNK = 256
"""Texts that are read together."""


def text_vectors(texts: Sequence[Sequence[int]], adapted: Adapted) -> Tensor:
    """[C, D] of length 1: what the text tower, as it is now, makes of each text's tokens. No gradient."""
    model: Any = adapted.model
    with torch.no_grad(), evaluating(model):
        parts = [padded(model.config, texts[i : i + CHUNK], adapted.device) for i in range(0, len(texts), CHUNK)]
        return torch.cat([normalize(text_features(model, part).float(), dim=-1) for part in parts])


def words_at(words: str, adapted: Adapted, where: str) -> tuple[Tensor, int]:
    """(fp32 embeddings [n, W] of words, a token each; how many tokens a text begins with before its words).

    MethodError, at the field `where`, for words that are no token or leave a text no place.
    """
    tokenizer, model = adapted.tokenizer, adapted.model
    plain = tokenizer(words, add_special_tokens=False)["input_ids"]
    if not plain:
        raise MethodError("the words are no token", where=where, remedy='write such as "a photo of a"')
    leave_room(model, len(plain) + 2, where)
    table: Any = token_embedding(model).weight
    return table[plain].detach().float(), tokenizer(words)["input_ids"].index(plain[0])


def check_words(texts: Sequence[str], words: str) -> None:
    """MethodError where every text begins with the words that a context stands for."""
    if all(t.lower().startswith(words.lower()) for t in texts):
        raise MethodError(
            f"every text begins with '{words}', which contexts stand for",
            where="data.template",
            remedy='write template: "{label}."',
        )


def own_text(batch: Batch, keys: Sequence[int]) -> Tensor:
    """[R] the place of each row's text among those with these keys; MethodError for a row whose text is none."""
    own = batch.fields["keys"].view(-1, 2)[:, 1]
    same = own[:, None] == torch.tensor(list(keys), device=own.device)
    if not bool(same.any(1).all()):
        raise MethodError("a row's text is none of those of `data.train`", where="data.replay", remedy="leave it out")
    return same.int().argmax(1)


def check_several(texts: Sequence[object]) -> None:
    """MethodError where a stage's rows leave nothing to choose among."""
    if len(texts) < 2:
        raise MethodError("all rows have one text", where="data.train", remedy="give rows of two classes or more")
