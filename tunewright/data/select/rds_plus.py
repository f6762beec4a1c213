"""RDS+: keep the records nearest to the target's in the model's own representation, each target record in its turn
(Ivison et al. 2025, arXiv:2503.01807; papers: rds-plus).

A record of T tokens with last hidden states h_t is represented by their mean weighted by position (SGPT's),

    e = sum_t w_t h_t,    w_t = t / sum_s s,    t = 1 .. T

brought to length 1: later tokens have seen more. With the similarities of each of m target records to all n
candidates, round r lets each target record, in order, take its r-th nearest candidate; what was taken before is not
taken again, and it ends when k are kept. No target record can be outvoted: an average over them would serve the
commonest kind alone.

Memory holds the representations and the k nearest of each target record. `keep` 0.1 is ours (the paper keeps 10,000 of
up to 5.8 million). `target` records beyond `most_targets` are drawn without replacement (ours; there all are used).

Differs from the paper in: a record that was cut into pieces has the mean of the pieces' representations by their
tokens. Pooling and order of taking are those of the authors' code.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from tunewright.contract.batch import Batch, Outputs
from tunewright.contract.method import Method
from tunewright.contract.reader import Reader, Reading, states_of
from tunewright.contract.records import Record
from tunewright.contract.selected import Selected
from tunewright.data.select._keep import Amount, at_most, how_many
from tunewright.models.flops import book

CHUNK = 256
"""Target records whose similarities to all candidates are held at once."""


def weighted_states(outputs: Outputs, batch: Batch) -> tuple[Tensor, Tensor]:
    """([R, D] mean of the last hidden states weighted by position, [R] tokens) of each row."""
    pieces = states_of(outputs, batch)
    found = []
    for piece in pieces:
        w = torch.arange(1, len(piece) + 1, device=piece.device, dtype=torch.float32)
        found.append((piece * (w / w.sum())[:, None]).sum(0))
    return torch.stack(found), torch.tensor([float(len(p)) for p in pieces])


WEIGHTED = Reading("mean of the last hidden states weighted by position", weighted_states, hidden=True)


def nearest(x: Tensor, y: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """([m, k] indices of the candidates x [n, D] nearest to each of y [m, D] (of length 1), nearest first; [n] the
    largest similarity of each candidate).
    """
    places, best = [], torch.full((len(x),), -2.0, device=x.device)
    for start in range(0, len(y), CHUNK):
        similar = y[start : start + CHUNK] @ x.T
        book(2.0 * similar.numel() * x.shape[1], 0.0, similar)
        places.append(similar.sort(dim=1, descending=True, stable=True).indices[:, :k].cpu())
        best = torch.maximum(best, similar.max(0).values)
    return torch.cat(places), best


def in_turn(places: Sequence[Sequence[int]], k: int) -> list[int]:
    """k different candidates: the nearest of each target record in order, then the second nearest of each ..."""
    taken: dict[int, None] = {}
    for one_each in zip(*places, strict=True):
        for i in one_each:
            taken.setdefault(i)
            if len(taken) == k:
                return list(taken)
    return list(taken)


class RDSPlus(Method):
    """Keeps the records nearest to each target record in turn."""

    keep: Amount = Field(
        0.1,
        gt=0,
        description="share of the records kept (10%, 0.1), or how many (1000)",
        examples=["25%", 3],
    )
    most_targets: PositiveInt = Field(
        1000, description="target records that are used; of more, as many are drawn", examples=[2]
    )
    model: str = Field(
        "start", description="what reads the records: start (of the stage), or one of the recipe's `models`"
    )

    tasks: ClassVar[tuple[str, ...]] = ("text-generation", "fill-mask")
    papers: ClassVar[tuple[str, ...]] = ("rds-plus",)

    def speakers(self) -> tuple[str, ...]:
        return (self.model,)

    def select(
        self, records: Sequence[Record], target: Sequence[Record], readers: dict[str, Reader], rng: random.Random
    ) -> Selected:
        aimed = at_most(target, self.most_targets, rng)
        reader = readers[self.model]
        x, y = (
            torch.nn.functional.normalize(reader.read(some, WEIGHTED), dim=1).to(reader.device)
            for some in (records, aimed)
        )
        k = how_many(self.keep, len(records))
        places, best = nearest(x, y, k)
        kept = in_turn(places.tolist(), k)
        inside = set(kept)
        reasons = ["" if i in inside else "others are nearer to each target row" for i in range(len(records))]
        return Selected(kept, scores={"similarity": best.tolist()}, reasons=reasons)
