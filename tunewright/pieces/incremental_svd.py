"""The directions of most variance of rows that are seen a batch at a time: k vectors are held, and never the rows.

With V [k, in] and S [k] of what was seen so far, m its mean over n rows, and a batch X [b, in] of mean c:

    V, S <- the k leading right singular vectors and values of [S V; X - c; sqrt(n b / (n + b)) (m - c)]

The last row is what the means' distance adds to the variance (Ross et al. 2008, which scikit-learn's IncrementalPCA and
PEFT's follow). Each vector's entry of largest size is positive. S_i^2 over all squared deviations is the share of the
variance that direction i explains.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tunewright.pieces.randomised_svd import leading


class IncrementalSVD:
    """At most `k` directions of rows [*, in]: `components` [k', in] and `singular` [k'], fp32, k' <= k until there are
    as many independent rows.
    """

    def __init__(self, k: int):
        self.k, self.count, self.total = k, 0, 0.0
        self.components, self.singular = torch.zeros(0), torch.zeros(0)
        self.mean = torch.zeros(0, dtype=torch.float64)

    def see(self, x: Tensor) -> None:
        """Take a batch of rows [b, in] in."""
        x = x.detach().float()
        if not len(x):
            return
        mean = x.mean(0, dtype=torch.float64)
        centred = (x.double() - mean).float()
        self.total += float(centred.double().square().sum())
        rows = [centred]
        if self.count:
            apart = (self.mean - mean) * math.sqrt(self.count * len(x) / (self.count + len(x)))
            self.total += float(apart.square().sum())
            rows = [self.singular[:, None] * self.components, centred, apart.float()[None]]
            mean = (self.mean * self.count + mean * len(x)) / (self.count + len(x))
        self.mean, self.count = mean, self.count + len(x)
        _, self.singular, V = leading(torch.cat(rows), self.k)
        largest = V.gather(1, V.abs().argmax(1, keepdim=True))
        self.components = V * torch.where(largest < 0, -1.0, 1.0)

    @property
    def ratio(self) -> Tensor:
        """[k'] the share of the variance of all rows so far that each direction explains."""
        return self.singular.double().square() / max(self.total, 1e-30)
