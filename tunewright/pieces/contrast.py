"""NT-Xent, the contrast of two views of each picture (Chen et al. 2020, arXiv:2002.05709, equation 1).

Of R pictures with two vectors each, z_1 .. z_2R, where j(i) is the other view of i's picture:

    l_i = -log [ exp(cos(z_i, z_j(i)) / t) / sum over k != i of exp(cos(z_i, z_k) / t) ]        nats
    loss of a picture = the mean of its two l

Views of a picture that the step holds twice are each other's neither positives nor negatives: they are left out.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from tunewright.contract.batch import Batch, Outputs
from tunewright.errors import MethodError


def both_views(outputs: Outputs, batch: Batch) -> Tensor:
    """The vectors [2R, D] of two views of each of a batch's pictures. MethodError where the model was shown one."""
    found = outputs.embeddings
    if found is None or len(found) != 2 * len(batch.fields["keys"]):
        raise MethodError(
            "two views of each picture are compared, and 'mae' shows the model a part of one",
            where="methods",
            remedy="take one of the two out, or give each a stage of its own",
        )
    return found


def nt_xent(embeddings: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """The loss [R] of pictures; `embeddings` [2R, D], the two views of each behind one another; `keys` [R], equal for
    equal pictures. 0 where a step holds one picture alone.
    """
    z = normalize(embeddings.float(), dim=-1)
    places = torch.arange(len(z), device=z.device)
    other = (places[:, None] ^ 1) == places[None]
    key = keys.repeat_interleave(2)
    scores = (z @ z.T / temperature).masked_fill((key[:, None] == key[None]) & ~other, -torch.inf)
    right = scores.gather(1, (places ^ 1)[:, None])[:, 0]
    return (torch.logsumexp(scores, 1) - right).view(-1, 2).mean(1)
