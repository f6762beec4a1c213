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
from tunewright.models.text_contexts import padded, text_features


def text_vectors(texts: Sequence[Sequence[int]], adapted: Adapted) -> Tensor:
    """[C, D] of length 1: what the text tower, as it is now, makes of each text's tokens. No gradient."""
    model: Any = adapted.model
    with torch.no_grad(), evaluating(model):
        return normalize(text_features(model, padded(model.config, texts, adapted.device)).float(), dim=-1)


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
