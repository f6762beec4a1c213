"""GORACS: keep the group of records that as a whole is nearest to the target, less what its gradients promise, found
greedily and then by exchanges (Mei et al. 2025, arXiv:2506.04015; papers: goracs).

With embeddings x_i of n records and y_t of m target rows, and |g_i| the norm of the gradient of record i's loss,

    c_it = |x_i - y_t| / max |x - y|  -  gradient_weight |g_i| / max |g|

the test loss of a model tuned on a group S of k records is bounded, up to constants, by the optimal-transport distance
OT(S) between equal masses on S and on the target at costs c: near to the target, and with much to learn from.

1. Greedily: the record of least mean cost, then each time the one that most lowers sum_t min_(i in S) c_it. Those that
   are nearest to no target row are left out again as long as others are left (as many more are picked before).
2. By exchanges: OT(S) exactly (`_transport.py`), with the dual potentials x of its group. By them a record i in one
   place of the group, with f_t = min_(j in S, j != i) (c_jt - x_j), serves at least for

       F_i = max_y  y / k + mean_t min(c_it - f_t - y, 0)

   The `candidates` records of S of largest F and those outside of least F are tried in pairs until one exchange lowers
   OT(S). This goes on for `exchanges` exchanges, or until no pair lowers it.

`within: label` chooses within each value of a column apart, at costs among rows of that value alone; each value has the
target's share of the records that are kept (the authors' second algorithm, for any number of classes).

Memory holds the n x m costs (4 n m bytes) and a plan's k (2 m + k) numbers, twice. An exchange costs less where k
divides the number of target rows: of more than `most_targets` a multiple of k is drawn, where there is one.

Defaults: of the authors' code are gradient_weight 0.1, 100 exchanges, 30 candidates (for sequential recommendation;
0.5, 20 and 3 with `within` for clicks); `keep` 0.1 and 1,000 target rows are ours (1,024 of tens of thousands there).

Source: Mithas-114/GORACS, codes/select/ITRA.py. Differs from it in: embeddings are means of the model's own last hidden
states, of length 1 (there a RoBERTa's); gradients are those by B of an adapter on all layers of the last block (there
a tuned one's on its value projection); y is the maximum in F (there the other end of the same order statistics), f
leaves i itself out (there a masked copy is not used), and the worst record is tried first.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt
from torch import Tensor

from tunewright.contract.method import Method
from tunewright.contract.reader import Reader
from tunewright.contract.records import Record
from tunewright.contract.selected import Selected
from tunewright.data.select._gradients import norms
from tunewright.data.select._keep import Amount, at_most, how_many
from tunewright.data.select._transport import Plan
from tunewright.errors import DataError
from tunewright.models.flops import book

CHUNK = 4096
"""Records whose costs are copied at a time."""


def costs(x: Tensor, y: Tensor, gradients: Tensor | None, weight: float) -> Tensor:
    """[n, m] costs of records at x [n, D] for target rows at y [m, D]."""
    c = torch.cdist(x, y)
    book(2.0 * c.numel() * x.shape[1], 0.0, c)
    c /= c.max().clamp(min=torch.finfo(c.dtype).tiny)
    if gradients is not None:
        c -= (weight * gradients / gradients.max().clamp(min=torch.finfo(c.dtype).tiny)).to(c)[:, None]
    return c


def greedy(c: Tensor, k: int) -> list[int]:
    """k of the records by costs [n, m], in the order of picking."""
    serving = len(c.argmin(0).unique())
    picked = [int(c.mean(1).argmin())]
    least = c[picked[0]].clone()
    while True:
        if len(picked) >= k:
            found = c[picked].argmin(0).unique().tolist()
            if serving <= k:
                return picked
            if len(found) >= k:
                return [picked[p] for p in found]
        sums = torch.cat([torch.minimum(part, least).sum(1) for part in c.split(CHUNK)])
        sums[picked] = math.inf
        picked.append(int(sums.argmin()))
        least = torch.minimum(least, c[picked[-1]])


def served(c: Tensor, group: Sequence[int], x: Tensor) -> Tensor:
    """[n] F of every record by costs [n, m], for a group of k > 1 records and their dual potentials x [k]."""
    k, m = len(group), c.shape[1]
    two = (c[group] - x[:, None]).topk(2, 0, largest=False)
    order = math.ceil(m / k)

    def estimate(part: Tensor, f: Tensor) -> Tensor:
        d = part - f
        y = d.kthvalue(order, 1).values
        return (d - y[:, None]).clamp(max=0).mean(1) + y / k

    found = torch.cat([estimate(part, two.values[0]) for part in c.split(CHUNK)])
    own = two.indices[0] == torch.arange(k, device=c.device)[:, None]
    found[group] = estimate(c[group], torch.where(own, two.values[1], two.values[0]))
    return found


def refined(c: Tensor, group: Sequence[int], exchanges: int, candidates: int) -> tuple[list[int], Tensor]:
    """(the group after exchanges; [n] F of every record by the last potentials, its mean cost for a group of one)."""
    group = list(group)
    if len(group) == 1:
        return group, c.mean(1)
    plan = Plan(c[group].double().cpu().numpy())
    for done in itertools.count():
        estimates = served(c, group, torch.from_numpy(plan.potentials()).to(c))
        if done == exchanges:
            break
        inside = estimates[group].argsort(descending=True, stable=True)[:candidates].tolist()
        outer = estimates.clone()
        outer[group] = math.inf
        outside = [i for i in outer.argsort(stable=True)[:candidates].tolist() if i not in set(group)]
        better = _better(plan, inside, outside, c[outside].double().cpu().numpy())
        if better is None:
            break
        place, brought, plan = better
        group[place] = brought
    return group, estimates


def _better(
    plan: Plan, inside: Sequence[int], outside: Sequence[int], rows: np.ndarray
) -> tuple[int, int, Plan] | None:
    """(place, record, plan) of the first exchange that lowers the distance."""
    for place, (brought, row) in itertools.product(inside, zip(outside, rows, strict=True)):
        if (found := plan.exchanged(place, row, plan.value - plan.strict)) is not None:
            return place, brought, found
    return None


def shares(wanted: Counter[str], k: int) -> dict[str, int]:
    """k parted by the values' shares: what is left over goes to the largest remainders."""
    total = wanted.total()
    exact = {v: k * n / total for v, n in wanted.items()}
    out = {v: int(e) for v, e in exact.items()}
    for v in sorted(exact, key=lambda v: out[v] - exact[v])[: k - sum(out.values())]:
        out[v] += 1
    return out


class GORACS(Method):
    """Keeps the group of records that is nearest to the target and has most to teach."""

    keep: Amount = Field(
        0.1,
        gt=0,
        description="share of the records kept (10%, 0.1), or how many (1000)",
        examples=["25%", 3],
    )
    gradient_weight: NonNegativeFloat = Field(
        0.1, description="share of the largest distance that the largest gradient is worth; 0: distances alone"
    )
    exchanges: NonNegativeInt = Field(100, description="exchanges at most; 0: the greedy choice alone", examples=[1])
    candidates: PositiveInt = Field(
        30, description="records inside and outside of the group that an exchange is tried with", examples=[1]
    )
    within: str | None = Field(None, description="a column: each of its values is chosen within apart (label)")
    most_targets: PositiveInt = Field(
        1000, description="target records that are used; of more, as many are drawn", examples=[2]
    )
    model: str = Field(
        "start", description="what reads the records: start (of the stage), or one of the recipe's `models`"
    )

    takes_gradients: ClassVar[bool] = True
    papers: ClassVar[tuple[str, ...]] = ("goracs",)
    conformance: ClassVar[dict[str, object]] = {"keep": 0.4}

    def speakers(self) -> tuple[str, ...]:
        return (self.model,)

    def select(
        self, records: Sequence[Record], target: Sequence[Record], readers: dict[str, Reader], rng: random.Random
    ) -> Selected:
        reader, seed, k = readers[self.model], rng.getrandbits(63), how_many(self.keep, len(records))
        most = self.most_targets if k > self.most_targets else self.most_targets // k * k
        aimed = at_most(target, most, rng) if len(target) > self.most_targets else target
        parts = self._parts(records, aimed, k)
        x, y = (
            torch.nn.functional.normalize(reader.embeddings(some), dim=1).to(reader.device) for some in (records, aimed)
        )
        scores: dict[str, list[float]] = {}
        gradients: Tensor | None = None
        if self.gradient_weight:
            gradients = norms(reader, "goracs", records, seed)
            scores["gradient"] = gradients.tolist()
        kept, values = list[int](), [0.0] * len(records)
        reasons = [f"no record of its {self.within} is wanted by the target's shares"] * len(records)
        for rows, targets, count in parts:
            g = gradients[rows] if gradients is not None else None
            c = costs(x[rows], y[targets], g, self.gradient_weight)
            group, estimates = refined(c, greedy(c, count), self.exchanges, self.candidates)
            kept += [rows[i] for i in group]
            for i, value in zip(rows, estimates.tolist(), strict=True):
                values[i], reasons[i] = value, "no exchange was found by which it brings the group nearer to the target"
        for i in kept:
            reasons[i] = ""
        return Selected(kept, scores={**scores, "cost": values}, reasons=reasons)

    def _parts(
        self, records: Sequence[Record], aimed: Sequence[Record], k: int
    ) -> list[tuple[list[int], list[int], int]]:
        """(places of records, of target rows, how many are kept) of each value of `within`; one part without it."""
        if self.within is None:
            return [(list(range(len(records))), list(range(len(aimed))), k)]
        known, wanted = [self._value(r) for r in records], [self._value(r) for r in aimed]
        out = []
        for value, count in shares(Counter(wanted), k).items():
            rows = [i for i, v in enumerate(known) if v == value]
            if len(rows) < count:
                raise DataError(
                    f"the target's shares ask for {count} records of '{self.within}' {value}, there are {len(rows)}",
                    where="goracs",
                    remedy="keep fewer, look at data.validation, or leave `within` out",
                )
            if count:
                out.append((rows, [t for t, v in enumerate(wanted) if v == value], count))
        return out

    def _value(self, record: Record) -> str:
        if record.get(str(self.within)) is None:
            raise DataError(
                f"{self.within}: is missing, and goracs chooses within its values",
                where=record.where,
                remedy="give every row of pool and target one, or leave `within` out",
            )
        return str(record[str(self.within)])
