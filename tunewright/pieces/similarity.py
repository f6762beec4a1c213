"""Losses of text vectors: in-batch negatives, and the two of pairs with a score. A value a row.

- in-batch negatives, of rows with a positive (and hard negatives): of row i, with anchor a_i and positive p_i,

      -log [ exp(s cos(a_i, p_i)) / sum over d of exp(s cos(a_i, d)) ]          nats a row

  where d goes over the positives and negatives of all rows of the step. Texts that say the same (blind to case and to
  how much space stands between words) are one text: d is left out where it is p_i or a_i once more, or the positive of
  a row whose anchor is a_i. A row's own hard negatives always count.
- CoSENT, of rows with a score: log(1 + sum over pairs of rows (i, j) with score_i > score_j of
  exp(s (cos_j - cos_i))): the order of the scores alone matters. It is one number a batch: a row's value is its share
  of it, so that the mean over rows is the number, and so is the gradient.
- squared error of the cosine, of rows with a score from -1 to 1.

N texts of R rows, D their size. Sources: Henderson et al. 2017 (arXiv:1705.00652, section 4.4) for in-batch negatives
and the scale of 20 that sentence-transformers takes; CoSENT: Su 2022 (kexue.fm/archives/8847), scale 20; the squared
error: Reimers and Gurevych 2019 (arXiv:1908.10084).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

SCALE = 20.0
"""What cosines are multiplied by: 1 / temperature."""


def owners(texts: Tensor) -> Tensor:
    """[N] the row of each text, from how many each row has [R]."""
    return torch.repeat_interleave(torch.arange(len(texts), device=texts.device), texts)


def starts(texts: Tensor) -> Tensor:
    """[R] the place of each row's first text."""
    return texts.cumsum(0) - texts


def in_batch_negatives(embeddings: Tensor, texts: Tensor, keys: Tensor, rows: Tensor, scale: float = SCALE) -> Tensor:
    """The loss [n] of the given rows [n], each of which has an anchor, a positive and any number of negatives.

    `embeddings` [N, D]; `texts` [R] how many each row has; `keys` [N] equal for texts that say the same.
    """
    unit, owner, first = normalize(embeddings.float(), dim=-1), owners(texts), starts(texts)[rows]
    chosen = torch.isin(owner, rows)
    chosen[first] = False
    documents = chosen.nonzero()[:, 0]  # positives and negatives of these rows, in order
    scores = scale * unit[first] @ unit[documents].T
    own = documents[None] == (first + 1)[:, None]
    mine = owner[documents][None] == rows[:, None]
    key, anchors, positives = keys[documents], keys[first], keys[first + 1]
    is_positive = documents == (starts(texts) + 1)[owner[documents]]
    same = (key[None] == positives[:, None]) | (key[None] == anchors[:, None])
    of_same = is_positive[None] & (keys[starts(texts)[owner[documents]]][None] == anchors[:, None])
    left_out = (same | of_same) & ~own & ~(mine & ~is_positive[None])
    scores = scores.masked_fill(left_out, -torch.inf)
    right = scores.masked_fill(~own, 0.0).sum(1)
    return torch.logsumexp(scores, 1) - right


def cosines(embeddings: Tensor, texts: Tensor, rows: Tensor) -> Tensor:
    """[n] of the first two texts of each of the given rows."""
    first = starts(texts)[rows]
    unit = normalize(embeddings.float(), dim=-1)
    return (unit[first] * unit[first + 1]).sum(-1)


def cosent(said: Tensor, scores: Tensor, scale: float = SCALE) -> Tensor:
    """Each row's share [n] of CoSENT, from cosines and scores [n]; 0 where no two scores differ."""
    apart = scale * (said[None, :] - said[:, None])  # [i, j]: by how much j is nearer than i
    apart = apart.masked_fill(~(scores[:, None] > scores[None, :]), -torch.inf)
    total = torch.logsumexp(torch.cat([apart.flatten(), apart.new_zeros(1)]), 0)
    with torch.no_grad():
        part = torch.exp(apart - total)
        share = (part.sum(0) + part.sum(1)) / (2 * part.sum()).clamp(min=torch.finfo(part.dtype).tiny)
    return total * share * len(said)


def squared_error(said: Tensor, scores: Tensor) -> Tensor:
    """[n] (cosine - score)^2."""
    return (said - scores) ** 2
