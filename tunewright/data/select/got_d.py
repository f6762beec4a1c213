"""GOT-D: keep the records that pull the pre-training distribution towards the target fastest: those of most negative
gradient of the optimal-transport distance (Kang et al. 2024, arXiv:2405.02774; papers: got-d).

The n candidates stand for what the model was pre-trained on, m target records for what is to be learnt. With embeddings
x [n, D] and y [m, D] of length 1, cost C_ij = |x_i - y_j| and equal masses a = 1/n, b = 1/m,

    OT = min_P <P, C>,  P 1 = a,  P' 1 = b,    its dual  max_(f, g) a.f + b.g  with  f_i + g_j <= C_ij

A little more mass on candidate i, taken evenly from the others, changes the distance by the calibrated gradient

    s_i = f_i - sum_(j != i) f_j / (n - 1)

and the k records of lowest s are kept, lowest first. Tuned on without labels ("warm-up", a stage of its own before the
one on the task), they move the model to the target, where records that merely look like it may be what it knows.

The duals come from the entropic problem: f_i = -e log sum_j b_j exp((g_j - C_ij) / e), and g in the same way, in turn,
in logarithms, with e falling by half from the largest cost to `regularisation` times the mean cost; they go to the
exact ones as e goes to 0. Costs are formed for a chunk of candidates at a time, so that memory holds the embeddings
and never the n x m costs; their products are counted as the selection's FLOPs. It runs where the model does.

Defaults: the least e is 0.01 of the mean cost (ours; the paper names an entropic solver), rounds end when the masses of
the plan are within 1e-4 of a or after 200 at an e. `target` records beyond `most_targets` are drawn without
replacement.

Differs from the paper in: embeddings are means of the model's own last hidden states (there a distilled BERT), of unit
length; all candidates are used at once. Written after the paper's abstract and method: the authors' code was not run
beside it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from tunewright.contract.method import Method
from tunewright.contract.reader import Reader
from tunewright.contract.records import Record
from tunewright.contract.selected import Selected
from tunewright.data.select._keep import Amount, at_most, how_many, smallest
from tunewright.models.flops import book

CHUNK = 4096
TOLERANCE = 1e-4
ROUNDS = 200


def costs(x: Tensor, y: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """(rows, [c, m] distances) of [n, D] candidates to [m, D] targets, a chunk of candidates at a time."""
    for start in range(0, len(x), CHUNK):
        rows = slice(start, min(start + CHUNK, len(x)))
        distances = torch.cdist(x[rows], y)
        book(2.0 * len(distances) * len(y) * x.shape[1], 0.0, distances)
        yield rows, distances


def potentials(x: Tensor, y: Tensor, regularisation: float = 0.01) -> tuple[Tensor, Tensor]:
    """Dual potentials ([n], [m]) of entropic transport between equal masses at x [n, D] and at y [m, D], in float64.

    `regularisation`: the least strength of the entropy, as a share of the mean cost.
    """
    x, y = x.double(), y.double()
    n, m = len(x), len(y)
    total = largest = 0.0
    for _, c in costs(x, y):
        total, largest = total + float(c.sum()), max(largest, float(c.max()))
    f, g = x.new_zeros(n), x.new_zeros(m)
    least = regularisation * total / (n * m)
    if not least:
        return f, g  # all points are one: nothing has to be moved
    e = max(largest, least)
    while True:
        for _ in range(ROUNDS):
            before = f
            f, g = _round(x, y, g, e)
            # the plan of the old f and g has row sums a exp((f_old - f_new) / e): how far they are from a
            if float(torch.expm1((before - f) / e).abs().mean()) < TOLERANCE:
                break
        if e <= least:
            return f, g
        e = max(e / 2, least)


def _round(x: Tensor, y: Tensor, g: Tensor, e: float) -> tuple[Tensor, Tensor]:
    """f for g, then g for that f, in one pass over the costs."""
    n, m = len(x), len(y)
    f, column = x.new_empty(n), x.new_full((m,), -math.inf)
    for rows, c in costs(x, y):
        f[rows] = -e * (torch.logsumexp((g - c) / e, 1) - math.log(m))
        column = torch.logaddexp(column, torch.logsumexp((f[rows, None] - c) / e, 0))
    return f, -e * (column - math.log(n))


def gradients(f: Tensor) -> Tensor:
    """[n] calibrated gradients of the distance by the candidates' masses: f_i less the mean of the others."""
    n = len(f)
    return f - (f.sum() - f) / (n - 1) if n > 1 else torch.zeros_like(f)


class GOTD(Method):
    """Keeps the records of most negative gradient of the transport distance to the target."""

    keep: Amount = Field(
        0.1,
        gt=0,
        description="share of the records kept (10%, 0.1), or how many (1000)",
        examples=["25%", 3],
    )
    regularisation: PositiveFloat = Field(
        0.01, description="least strength of the entropy, as a share of the mean cost", examples=[1.0]
    )
    most_targets: PositiveInt = Field(
        1000, description="target records that are used; of more, as many are drawn", examples=[2]
    )
    model: str = Field(
        "start", description="what embeds the records: start (of the stage), or one of the recipe's `models`"
    )

    papers: ClassVar[tuple[str, ...]] = ("got-d",)

    def speakers(self) -> tuple[str, ...]:
        return (self.model,)

    def select(
        self, records: Sequence[Record], target: Sequence[Record], readers: dict[str, Reader], rng: random.Random
    ) -> Selected:
        aimed = at_most(target, self.most_targets, rng)
        reader = readers[self.model]
        where = "cpu" if reader.device == "mps" else reader.device  # mps has no float64
        x, y = (torch.nn.functional.normalize(reader.embeddings(some), dim=1).to(where) for some in (records, aimed))
        f, _ = potentials(x, y, self.regularisation)
        values = gradients(f).tolist()
        kept = smallest(values, how_many(self.keep, len(records)))
        inside = set(kept)
        reasons = ["" if i in inside else f"gradient above {values[kept[-1]]:.4g}" for i in range(len(records))]
        return Selected(kept, scores={"gradient": values}, reasons=reasons)
