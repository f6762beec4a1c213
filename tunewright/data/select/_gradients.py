"""Gradients of single records by an adapter that hangs on a model for as long as they are read.

What a selector remembers of them also depends on this file: `CODE` belongs into its `how` (`Reader.remembered`).
"""

from __future__ import annotations

import inspect
import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from tunewright.contract.method import torch_generator
from tunewright.contract.reader import Reader
from tunewright.contract.records import Record
from tunewright.errors import MethodError
from tunewright.models import deltas
from tunewright.models.sites import Site
from tunewright.pieces.low_rank import kaiming

CODE = inspect.getsource(sys.modules[__name__])
RANK = 8
"""Of the adapter by which norms are read: that of DEALRec's and GORACS's code."""


@contextmanager
def adapter(
    reader: Reader, name: str, sites: Sequence[Site], rank: int, scale: float, rng: random.Random, *, fused: bool = True
) -> Iterator[list[torch.nn.Parameter]]:
    """The parameters (A, then B, of each of the layers) of a fresh adapter s B A, which starts as no change; it hangs
    on the model inside, and is taken away on leaving. `fused=False`: gradients by it can be differentiated again.
    """
    hung, parameters = [], list[torch.nn.Parameter]()
    try:
        for site in sites:
            A, B = kaiming(site, min(rank, site.in_features, site.out_features), torch_generator(rng))
            delta = deltas.LowRank(A, B, scale).to(reader.device)
            delta.fused = fused
            deltas.attach(site, name, delta)
            hung.append(site)
            parameters += [p for p in delta.parameters() if p.requires_grad]
        yield parameters
    finally:
        for site in hung:
            deltas.detach(site, name)


def last_layers(reader: Reader, name: str) -> list[Site]:
    """The linear layers of a model's last block. MethodError where its blocks have none."""
    sites = reader.adapted.structure.linear_sites()
    if not sites:
        raise MethodError(
            f"'{reader.name}' has no linear layer in its blocks, and {name} reads gradients of an adapter on these",
            where="data.select",
            remedy="select by representations: k-center or got-d",
        )
    return [s for s in sites if s.block == sites[-1].block]


def gradient(loss: Tensor, parameters: Sequence[Tensor], where: str, *, again: bool = False) -> Tensor:
    """[P] gradient of a record's loss by some parameters, zero for those that it does not pass through (experts).

    `again`: with a graph of its own, to be differentiated once more. MethodError names the record by `where` if it is
    not finite.
    """
    found = torch.autograd.grad(loss, parameters, create_graph=again, allow_unused=True, materialize_grads=True)
    whole = torch.cat([g.reshape(-1) for g in found])
    if not bool(torch.isfinite(whole).all()):
        raise MethodError(
            "the gradient of this row is no finite number",
            where=where,
            remedy="look at this row and at the model's weights, or take the row out",
        )
    return whole


def curved_loss(reader: Reader, record: Record) -> Tensor:
    """[] `reader.loss(record)`, by operations that can be differentiated twice: its logits are kept."""
    rows = reader.rows_of(record)
    reader.tokens += sum(r.size for r in rows)
    reader.bring()
    with reader.adapted.evaluating():
        batch = reader.task.collate(rows, reader.packed, seed=reader.seed).to(reader.device)
        outputs = reader.task.forward(reader.adapted.outer, batch)
        return -outputs.logits.float().log_softmax(-1).gather(-1, outputs.labels[:, None]).mean()


def norms(reader: Reader, name: str, records: Sequence[Record], seed: int) -> Tensor:
    """[n] norm of the gradient of each record's mean loss by B of an adapter (s = 1) on the last block's layers, A
    drawn by the seed: how much a first step of fine-tuning would want to move for it. A forward a record, and a
    backward through one block.
    """

    def read() -> Tensor:
        with adapter(reader, name, last_layers(reader, name), RANK, 1.0, random.Random(seed)) as parameters:
            moved = parameters[1::2]  # B; A has no gradient while B is 0
            return torch.stack([gradient(reader.loss(r), moved, r.where).norm() for r in records])[:, None]

    return reader.remembered("gradient norms", records, {"seed": seed, "n": len(records)}, read)[:, 0]
