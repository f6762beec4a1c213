"""A simulator of training (Liu et al. 2024, arXiv:2404.07840): losses of test rows from the rows of each step.

With e features [D] of rows, standardised, and A, B two small networks to [H], a step on the rows z_1 ... z_k takes the
loss of a test row t from l to

    l' = (1 - sum_i a(z_i, t)) l - sum_i b(z_i, t),     a(z, t) = u A(e_z) A(e_t),  b(z, t) = v B(e_z) B(e_t)

with units u and v of the size of a logged change, so that a fit begins there. A network is two layers with ReLU between
them, the same for both kinds of rows, so that rows that were in no logged run have factors too. Of rows that are alike
the products are positive, whatever is learnt, and so the loss falls; of others they may have either sign. It is fitted
to each logged step from the loss that was measured before it; a curve is foretold from the first loss alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tunewright.models.flops import book

STEPS = 16
"""Logged steps that one step of a fit is taken on."""


@dataclass(frozen=True)
class Logged:
    """A run: the rows of each step as indices [S, k], and the test rows' losses [S + 1, m] before it and after each."""

    rows: Tensor
    losses: Tensor


class Simulator(nn.Module):
    """Factors of rows on test rows, by features of both. `features` [N, D] are those that the scale is taken from."""

    def __init__(self, features: Tensor, width: int, generator: torch.Generator):
        super().__init__()
        self.mean, self.spread = features.mean(0), features.std(0).clamp(min=1e-6)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**62, (1,), generator=generator)))
            self.networks = nn.ModuleList(
                nn.Sequential(nn.Linear(features.shape[1], width), nn.ReLU(), nn.Linear(width, width)) for _ in range(2)
            )
        self.generator, self.width, self.units = generator, width, (1.0, 1.0)

    def seen(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(A, B) [N, H] of rows by their features [N, D]."""
        x = (features - self.mean) / self.spread
        book(sum(2.0 * p.numel() for p in self.parameters()) * len(x), 0.0, x)
        first, second = self.networks
        return first(x), second(x)

    def steps(self, batches: Tensor, train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
        """(sum of a, sum of b) [S, m] of steps on rows [S, k], by the features of all rows and of the test rows."""
        pairs = zip(self.seen(train), self.seen(test), self.units, strict=True)
        a, b = (z[batches].sum(1) @ t.T * unit for z, t, unit in pairs)
        return a, b

    def fit(self, runs: Sequence[Logged], train: Tensor, test: Tensor, *, passes: int, rate: float) -> None:
        """Fit all steps of logged runs, `passes` times over, by the mean square of what is left of their changes.

        Steps are drawn `STEPS` at a time, in a new order each time over.
        """
        batches = torch.cat([r.rows for r in runs])
        before, after = (torch.cat([r.losses[part] for r in runs]) for part in (slice(0, -1), slice(1, None)))
        scale = float((after - before).square().mean().clamp(min=1e-12))
        size = scale**0.5 / batches.shape[1]
        self.units = (size / float(before.mean().clamp(min=1e-6)), size)
        optimizer = torch.optim.AdamW(self.parameters(), lr=rate, weight_decay=1e-5)
        with torch.enable_grad():
            for _ in range(passes):
                for some in torch.randperm(len(batches), generator=self.generator).split(STEPS):
                    a, b = self.steps(batches[some], train, test)
                    fall = (before - after)[some]
                    optimizer.zero_grad()
                    ((a * before[some] + b - fall).square().mean() / scale).backward()
                    optimizer.step()

    @torch.no_grad()
    def curves(self, first: Tensor, batches: Tensor, train: Tensor, test: Tensor) -> Tensor:
        """[S + 1, m] losses of a run on rows [S, k] that begins at `first` [m]."""
        found = [first]
        for a, b in zip(*self.steps(batches, train, test), strict=True):
            found.append((1 - a) * found[-1] - b)
        return torch.stack(found)
