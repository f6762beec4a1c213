"""Whose rows are whose where data lies with several clients, and the mean of what they made.

A row's client is drawn from its id alone, so that it is the same in every epoch, however rows are shuffled or streamed.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from tunewright.contract.batch import Row
from tunewright.contract.method import wherever


def shares(clients: int, alpha: float | None, key: str) -> list[float]:
    """What part of a class's rows each client has: alike, or drawn from a symmetric Dirichlet(alpha)."""
    if alpha is None:
        return [1.0 / clients] * clients
    rng = random.Random(key)
    drawn = [rng.gammavariate(alpha, 1.0) for _ in range(clients)]
    total = sum(drawn)
    if not total:  # all of them below the smallest float: one client has everything
        drawn[rng.randrange(clients)] = total = 1.0
    return [d / total for d in drawn]


def client_of(row: Row, clients: int | None, alpha: float | None, seed: int) -> str:
    """The client that a row lies with: one of so many, or its source where `clients` is None.

    With `alpha`, each class has shares of its own among the clients; rows without a class have those of their source.
    """
    if clients is None:
        return wherever(row.source)
    kind = wherever(row.source) if row.label is None else str(row.label)
    ends = list(accumulate(shares(clients, alpha, f"{seed}/shares/{kind}")))
    at = random.Random(f"{seed}/client/{wherever(row.id)}").random() * ends[-1]
    return str(min(bisect_right(ends, at), clients - 1))


def by_client(rows: Sequence[Row], clients: int | None, alpha: float | None, seed: int) -> dict[str, list[int]]:
    """Places in `rows` of each client that has any, clients in the order of their names."""
    found: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        found.setdefault(client_of(row, clients, alpha, seed), []).append(place)
    return dict(sorted(found.items(), key=lambda item: (len(item[0]), item[0])))


def mean_change(
    starts: Mapping[str, Tensor], ends: Sequence[Mapping[str, Tensor]], weights: Sequence[float]
) -> dict[str, Tensor]:
    """What has to be added to `starts` for the weighted mean of several ends, summed in float32."""
    total = sum(weights)
    mean = {n: torch.zeros_like(t, dtype=torch.float32) for n, t in starts.items()}
    for end, weight in zip(ends, weights, strict=True):
        for n, t in end.items():
            mean[n].add_(t.float() - starts[n].float(), alpha=weight / total)
    return {n: m.to(starts[n].dtype) for n, m in mean.items()}
