"""DEALRec: keep records whose removal would cost a small model most and that the large one has most to do for, drawn so
that easy and hard ones are covered (Lin et al. 2024, arXiv:2401.17197; papers: dealrec).

1. A surrogate (`surrogate`: a smaller model of the recipe's, with the same tokenizer) learns an adapter s B A on its
   last linear layer from all records. With g_s the gradient of record s's mean loss by B and H the mean loss's Hessian
   there, leaving s out of n records changes the mean loss by 1/n of its influence

       I_s = v' H^-1 g_s,    v = mean_s g_s

   H^-1 v comes from products with the Hessian of one record drawn after the other (LiSSA),

       h <- v + (1 - damping) h - H_s h / scale

   which goes to scale (H + damping scale)^-1 v; the factor does not matter.
2. The effort of a record is the norm of its gradient by B of an untrained adapter on the last block of the model that
   is to be trained: what the surrogate cannot know.
3. The score is I, brought to [0, 1] between its least and largest, plus `effort_weight` times the effort, brought there
   too. The `drop_hardest` of largest score go (outliers), the rest is parted into `groups` intervals of equal width in
   the score. From the interval with the fewest records on, each gives an equal part of what is still to be had, drawn
   among its records, or all that it has.

Costs a forward a record for each of the `epochs`, one for I and one for the effort, and `iterations` more; the backward
goes through one layer. Memory holds g_s of all records, 4 n P bytes for the P = 8 x width entries of B.

Defaults: of the authors' code are damping 0.01, scale 25, effort_weight 0.5, 50 groups, 10 % dropped, Adam at 1e-3,
rank 8; `keep` 2 % is the paper's. Ours are 1 epoch of batches of 32 (200 of 500 there, from random weights) and 1,000
products (5,000 there): h has forgotten its start after a few hundred.

Errors: DataError where more is to be kept than is left, or the products diverge (a larger `scale` makes them converge).
Source: Linxyhaha/DEALRec, code/prune. Differs from it in: the surrogate is a pre-trained model with an adapter (there a
SASRec of its own training, by the output projection of its last attention); gradients of all layers of the last block
(there the value projection of a tuned adapter).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, field_validator
from torch import Tensor

from tunewright.contract.method import Method
from tunewright.contract.reader import Reader
from tunewright.contract.records import Record
from tunewright.contract.selected import Selected
from tunewright.data.select._gradients import CODE, RANK, adapter, curved_loss, gradient, last_layers, norms
from tunewright.data.select._keep import Amount, how_many, share
from tunewright.errors import DataError

NAME = "dealrec"
BATCH, RATE = 32, 1e-3


def solved(product: Callable[[Tensor], Tensor], v: Tensor, damping: float, scale: float, iterations: int) -> Tensor:
    """[P] h after so many steps of h <- v + (1 - damping) h - product(h) / scale from v on."""
    h = v
    for _ in range(iterations):
        h = v + (1 - damping) * h - product(h) / scale
    return h


def unit(x: Tensor) -> Tensor:
    """x brought to [0, 1] between its least and largest; zeros where all are equal."""
    spread = x.max() - x.min()
    return (x - x.min()) / spread if float(spread) > 0 else torch.zeros_like(x)


def covering(scores: Sequence[float], k: int, groups: int, dropped: int, rng: random.Random) -> list[int]:
    """k records, group by group from the smallest on: all but the `dropped` of largest score are in one of the groups
    of equal width in the score.
    """
    order = sorted(range(len(scores)), key=lambda i: -scores[i])[dropped:]
    least, width = scores[order[-1]], (scores[order[0]] - scores[order[-1]]) / groups
    parts: list[list[int]] = [[] for _ in range(groups)]
    for i in order:
        at = math.ceil((scores[i] - least) / width) - 1 if width > 0 else 0
        parts[min(max(at, 0), groups - 1)].append(i)
    left, kept = sorted((p for p in parts if p), key=len), list[int]()
    while left:
        kept += rng.sample(left[0], min(len(left[0]), (k - len(kept)) // len(left)))
        left = left[1:]
    return kept


class DEALRec(Method):
    """Keeps records of high influence and effort, drawn evenly over their scores."""

    keep: Amount = Field(
        0.02,
        gt=0,
        description="share of the records kept (10%, 0.1), or how many (1000)",
        examples=["25%", 3],
    )
    surrogate: str = Field(
        "start", description="the small model whose risk counts: one of the recipe's `models`, or start (of the stage)"
    )
    model: str = Field(
        "start", description="whose effort counts: start (of the stage), or one of the recipe's `models`"
    )
    effort_weight: NonNegativeFloat = Field(
        0.5, description="weight of the effort beside the influence", examples=[2.0]
    )
    epochs: NonNegativeInt = Field(1, description="passes in which the surrogate's adapter is trained", examples=[2])
    iterations: PositiveInt = Field(1000, description="products with records' Hessians", examples=[5])
    damping: float = Field(0.01, gt=0, lt=1, description="share that is taken off h at each of them", examples=[0.5])
    scale: PositiveFloat = Field(25.0, description="what each product is divided by", examples=[100.0])
    groups: PositiveInt = Field(50, description="intervals of the score that are drawn from", examples=[2])
    drop_hardest: float = Field(
        0.1, ge=0, lt=1, description="share of largest score that is left out first", examples=[0.5]
    )

    takes_gradients: ClassVar[bool] = True
    papers: ClassVar[tuple[str, ...]] = ("dealrec",)
    conformance: ClassVar[dict[str, object]] = {"keep": 0.4, "iterations": 20, "groups": 3}

    _percent = field_validator("drop_hardest", mode="before")(share)

    def speakers(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.surrogate, self.model)))

    def select(self, records: Sequence[Record], readers: dict[str, Reader], rng: random.Random) -> Selected:
        seed, n = rng.getrandbits(63), len(records)
        k, dropped = how_many(self.keep, n), math.floor(self.drop_hardest * n)
        if k > n - dropped:
            raise DataError(
                f"{k} of {n} records cannot be kept when the hardest {dropped} are left out",
                where=NAME,
                remedy=f"keep {n - dropped} at most, or write drop_hardest: 0",
            )
        small = readers[self.surrogate]
        told = self.model_dump(mode="json", include={"epochs", "iterations", "damping", "scale"})
        how = {**told, "seed": seed, "n": n, "pieces": CODE}
        found = small.remembered(NAME, records, how, lambda: self._influences(records, small, random.Random(seed)))[
            :, 0
        ]
        effort = norms(readers[self.model], NAME, records, seed)
        scores = (unit(found.double()) + self.effort_weight * unit(effort.double())).tolist()
        kept = covering(scores, k, self.groups, dropped, rng)
        inside, hardest = set(kept), set(sorted(range(n), key=lambda i: -scores[i])[:dropped])
        out = ["among the hardest" if i in hardest else "others of its scores were drawn" for i in range(n)]
        reasons = ["" if i in inside else why for i, why in enumerate(out)]
        told_of = {"influence": found.tolist(), "effort": effort.tolist(), "score": scores}
        return Selected(kept, scores=told_of, reasons=reasons)

    def _influences(self, records: Sequence[Record], reader: Reader, rng: random.Random) -> Tensor:
        """[n, 1] of the records, at the surrogate's adapter once it is trained."""
        with adapter(reader, NAME, last_layers(reader, NAME)[-1:], RANK, 1.0, rng, fused=False) as parameters:
            self._train(records, reader, parameters, rng)
            moved = parameters[1:]
            each = torch.stack([gradient(reader.loss(r), moved, r.where) for r in records])

            def product(h: Tensor) -> Tensor:
                record = rng.choice(records)
                g = gradient(curved_loss(reader, record), moved, record.where, again=True)
                return torch.cat([p.reshape(-1) for p in torch.autograd.grad(g @ h, moved)])

            h = solved(product, each.mean(0), self.damping, self.scale, self.iterations)
            if not bool(torch.isfinite(h).all()):
                raise DataError(
                    "the products with the surrogate's Hessian diverge",
                    where=NAME,
                    remedy=f"write scale: {10 * self.scale:g}",
                )
            return (each @ h)[:, None]

    def _train(
        self, records: Sequence[Record], reader: Reader, parameters: Sequence[torch.nn.Parameter], rng: random.Random
    ) -> None:
        adam, order = torch.optim.Adam(parameters, lr=RATE), list(range(len(records)))
        for _ in range(self.epochs):
            rng.shuffle(order)
            for start in range(0, len(order), BATCH):
                some = [records[i] for i in order[start : start + BATCH]]
                adam.zero_grad()
                for record in some:
                    sums = torch.autograd.grad(reader.loss(record), parameters)
                    for p, g in zip(parameters, sums, strict=True):
                        p.grad = g / len(some) if p.grad is None else p.grad + g / len(some)
                adam.step()
