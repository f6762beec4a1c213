"""LESS: keep the records whose gradients point where the target's do, as a step of Adam would take them (Xia et al.
2024, arXiv:2402.04333; papers: less).

1. A low-rank adapter is trained for a few epochs on a few of the records ("warm-up"), with Adam.
2. After each of its epochs c, at the adapter of then, with g(z) the gradient of z's mean loss by the adapter's
   parameters [P] and Adam's moments m, v of then,

       a(z) = (b1 m + (1 - b1) g(z)) / sqrt(b2 v + (1 - b2) g(z)^2 + 1e-8)    the step that z would be, elementwise

   Both are brought to d numbers by a random projection R that keeps inner products on average.
3. A candidate z has, by the epochs' mean learning rates r_c, the influence on a kind of target rows T_j

       s_j(z) = sum_c r_c / sum r . mean_(t in T_j) cos(R a_c(z), R g_c(t)),      s(z) = max_j s_j(z)

   and the records of largest s are kept, largest first. Kinds are the target's sources: write a file for each.

Candidates go as Adam's steps and target rows as plain gradients, as in the authors' code, from which are also: no
correction of the moments' bias, 1e-8 under the root, a batch's loss as the mean of its rows' means, 5 % of the records
for warm-up, 4 epochs of batches of 32 at 2e-5 that falls to 0 after a rise over 3 % of the steps, s = alpha / r = 4,
and d = 8192. Rank 8 is ours (128 there), so that a small machine can do it: what is read costs a forward and a
backward a record and epoch. `keep` 5 % is theirs.

Differs from the paper in: the adapter is on every linear layer of the blocks (q, k, v and o there) and has no dropout
(0.1 there); R is a count sketch, which adds each parameter to one of d places with a random sign: as unbiased as the
authors' dense random signs, with the same variance to first order, at P operations and not P d. `projection: 0` is
none: exact, with P numbers for each target row in memory.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator
from torch import Tensor

from tunewright.contract.method import Method, torch_generator
from tunewright.contract.reader import Reader
from tunewright.contract.records import Record
from tunewright.contract.selected import Selected
from tunewright.data.select._by_row import CODE as BY_ROW
from tunewright.data.select._by_row import gradients
from tunewright.data.select._gradients import CODE, adapter
from tunewright.data.select._keep import Amount, below, how_many, share, smallest
from tunewright.errors import MethodError
from tunewright.models.sites import Site

NAME = "less"
BETAS, EPS = (0.9, 0.999), 1e-8
MOMENTS = ("exp_avg", "exp_avg_sq")
RISE = 0.03


def adam_step(g: Tensor, m: Tensor, v: Tensor) -> Tensor:
    """The direction of Adam's next step for a gradient g, with the moments m and v before it."""
    (b1, b2) = BETAS
    return (b1 * m + (1 - b1) * g) / (b2 * v + (1 - b2) * g * g + EPS).sqrt()


class Sketch:
    """A count sketch of vectors of P numbers in d places; d = 0: the vectors themselves."""

    def __init__(self, size: int, places: int, generator: torch.Generator):
        self.places = places
        if places:
            self.at = torch.randint(places, (size,), generator=generator)
            self.signs = torch.randint(0, 2, (size,), generator=generator, dtype=torch.int8) * 2 - 1

    def __call__(self, x: Tensor) -> Tensor:
        """[P] -> [d], of length 1."""
        found = x.float().cpu()
        if self.places:
            found = torch.zeros(self.places).index_add_(0, self.at, found * self.signs)
        return torch.nn.functional.normalize(found, dim=0)


def rate_at(step: int, steps: int, peak: float) -> float:
    """Rising over the first 3 % of the steps (rounded up), then falling to 0 at their end."""
    rise = min(math.ceil(RISE * steps), steps - 1)
    return peak * step / rise if step < rise else peak * (steps - step) / max(1, steps - rise)


class LESS(Method):
    """Keeps the records whose gradients agree with the target's."""

    keep: Amount = Field(
        0.05,
        gt=0,
        description="share of the records kept (10%, 0.1), or how many (1000)",
        examples=["25%", 3],
    )
    warm_up: float = Field(0.05, gt=0, le=1, description="share of the records that the adapter is trained on")
    epochs: PositiveInt = Field(4, description="passes over these, after each of which gradients are read")
    batch: PositiveInt = Field(32, description="records of a step of the warm-up", examples=[2])
    learning_rate: PositiveFloat = Field(2e-5, description="its highest learning rate", examples=[1e-2])
    rank: PositiveInt = Field(8, description="rank of the adapter", examples=[2])
    scale: PositiveFloat = Field(4.0, description="s of its product s B A", examples=[1.0])
    projection: NonNegativeInt = Field(8192, description="numbers that a gradient is brought to; 0: all", examples=[64])
    model: str = Field(
        "start", description="what reads the records: start (of the stage), or one of the recipe's `models`"
    )

    takes_gradients: ClassVar[bool] = True
    papers: ClassVar[tuple[str, ...]] = ("less",)
    conformance: ClassVar[dict[str, object]] = {"keep": 0.5, "warm_up": 0.5, "epochs": 2, "batch": 3, "rank": 4}

    _percent = field_validator("warm_up", mode="before")(share)

    def speakers(self) -> tuple[str, ...]:
        return (self.model,)

    def select(
        self, records: Sequence[Record], target: Sequence[Record], readers: dict[str, Reader], rng: random.Random
    ) -> Selected:
        reader, seed = readers[self.model], rng.getrandbits(63)
        told = self.model_dump(mode="json", exclude={"keep", "model"})
        how = {**told, "seed": seed, "n": len(records), "pieces": CODE + BY_ROW}

        def influences() -> Tensor:
            return self._influences(records, target, reader, random.Random(seed))[:, None]

        found = reader.remembered(NAME, [*records, *target], how, influences)[:, 0].tolist()
        kept = smallest([-s for s in found], how_many(self.keep, len(records)))
        least, inside = found[kept[-1]], set(kept)
        reasons = ["" if i in inside else below("influence", found[i], least) for i in range(len(records))]
        return Selected(kept, scores={"influence": found}, reasons=reasons)

    def _influences(
        self, records: Sequence[Record], target: Sequence[Record], reader: Reader, rng: random.Random
    ) -> Tensor:
        """[n] influences of the records on that kind of target rows which each serves most."""
        kinds = list(dict.fromkeys(t.source for t in target))
        some = rng.sample(range(len(records)), max(1, round(self.warm_up * len(records))))
        batches = math.ceil(len(some) / self.batch)
        sites = [s for s in reader.adapted.structure.sites if s.block is not None and s.kind == "linear"]
        if not sites:
            raise MethodError(
                f"'{reader.name}' has no linear layer in its blocks, and less reads gradients of an adapter on these",
                where="data.select",
                remedy="select by representations: rds-plus or got-d",
            )
        with adapter(reader, NAME, sites, self.rank, self.scale, rng) as parameters:
            sketch = Sketch(sum(p.numel() for p in parameters), self.projection, torch_generator(rng))
            adam = torch.optim.Adam(parameters, lr=0.0, betas=BETAS, eps=EPS)
            total, weights, step = torch.zeros(len(kinds), len(records)), 0.0, 0
            for _ in range(self.epochs):
                rng.shuffle(some)
                rates = []
                for b in range(batches):
                    rates.append(rate_at(step, self.epochs * batches, self.learning_rate))
                    adam.param_groups[0]["lr"] = rates[-1]
                    here = [records[i] for i in some[b * self.batch : (b + 1) * self.batch]]
                    self._step(adam, parameters, here, reader)
                    step += 1
                weight = sum(rates) / len(rates)
                if not weight:  # an epoch that did not move
                    continue
                aimed = self._aims(target, kinds, sites, sketch, reader)
                m, v = (torch.cat([adam.state[p][k].reshape(-1) for p in parameters]) for k in MOMENTS)
                for i, g in gradients(reader, NAME, sites, records):
                    total[:, i] += weight * (aimed @ sketch(adam_step(g, m, v)))
                weights += weight
        return (total / weights).max(0).values

    def _step(
        self, adam: torch.optim.Adam, parameters: list[torch.nn.Parameter], some: Sequence[Record], reader: Reader
    ) -> None:
        sums = [torch.zeros_like(p) for p in parameters]
        for record in some:
            for whole, g in zip(sums, torch.autograd.grad(reader.loss(record), parameters), strict=True):
                whole += g / len(some)
        for p, whole in zip(parameters, sums, strict=True):
            p.grad = whole
        adam.step()

    def _aims(
        self,
        target: Sequence[Record],
        kinds: Sequence[str],
        sites: Sequence[Site],
        sketch: Sketch,
        reader: Reader,
    ) -> Tensor:
        """[kinds, d]: the mean of the target rows' gradients, each of length 1, of each kind."""
        found: dict[str, list[Tensor]] = {kind: [] for kind in kinds}
        for i, g in gradients(reader, NAME, sites, target):
            found[target[i].source].append(sketch(g))
        return torch.stack([torch.stack(some).mean(0) for some in found.values()])
