"""k-center: keep records that cover the pool, so that every other one is near one that is kept (Sener & Savarese 2018,
arXiv:1708.00489; papers: k-center).

With embeddings x_i [n, D], the k centres S are sought for which the largest distance of any record to its nearest
centre, max_i min_(j in S) |x_i - x_j|, is smallest. Greedily, each next centre is the record farthest from those that
there are:

    u = argmax_i min_(j in S) |x_i - x_j|,    S <- S + u

which comes within twice the best radius (Gonzalez 1985). A loss that is Lipschitz in x is then within that radius of
what it is at a centre. Records are kept in the order in which they are picked; a shorter prefix is the choice for a
smaller k. Each pick forms n distances; memory holds the embeddings.

The first centre is the record nearest to the mean of all (ours; there the labelled pool, which a selection does not
have). `keep` 0.1 is ours: the paper labels thousands of tens of thousands of pictures.

Differs from the paper in: embeddings are means of the model's own last hidden states, brought to length 1 (there the
last fully connected layer of a classifier under training); the greedy choice alone, without the mixed-integer program
that allows outliers (its authors use a commercial solver): outliers are picked early. Put near-duplicate or perplexity
before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from tunewright.contract.method import Method
from tunewright.contract.reader import Reader
from tunewright.contract.records import Record
from tunewright.contract.selected import Selected
from tunewright.data.select._keep import Amount, how_many
from tunewright.models.flops import book


def greedy(x: Tensor, k: int) -> tuple[list[int], Tensor, Tensor]:
    """(k indices in the order of picking, [k] each one's distance to those before it, [n] distance of each of [n, D]
    points to its nearest centre). The first is nearest to the mean; of equally far ones the earlier is picked.
    """
    first = int((x - x.mean(0)).norm(dim=1).argmin())
    picked, at = [first], [float("inf")]
    nearest = (x - x[first]).norm(dim=1)
    while len(picked) < k:
        nearest[picked[-1]] = 0.0  # of itself, whatever rounding says
        u = int(nearest.argmax())
        if float(nearest[u]) == 0.0:  # what is left is a copy of a centre: those that stand first
            rest = sorted(set(range(len(x))) - set(picked))[: k - len(picked)]
            picked, at = [*picked, *rest], [*at, *[0.0] * len(rest)]
            break
        picked.append(u)
        at.append(float(nearest[u]))
        nearest = torch.minimum(nearest, (x - x[u]).norm(dim=1))
    nearest[picked] = 0.0
    return picked, torch.tensor(at), nearest


class KCenter(Method):
    """Keeps records that cover the pool."""

    keep: Amount = Field(
        0.1,
        gt=0,
        description="share of the records kept (10%, 0.1), or how many (1000)",
        examples=["25%", 3],
    )
    model: str = Field(
        "start", description="what embeds the records: start (of the stage), or one of the recipe's `models`"
    )

    papers: ClassVar[tuple[str, ...]] = ("k-center",)

    def speakers(self) -> tuple[str, ...]:
        return (self.model,)

    def select(self, records: Sequence[Record], readers: dict[str, Reader]) -> Selected:
        reader = readers[self.model]
        x = torch.nn.functional.normalize(reader.embeddings(records), dim=1).to(reader.device)
        kept, picked_at, nearest = greedy(x, how_many(self.keep, len(records)))
        book(3.0 * len(kept) * x.numel(), 0.0, x)
        distances = nearest.tolist()
        inside = set(kept)
        radius = max(distances)
        reasons = ["" if i in inside else f"within {radius:.3g} of one that is kept" for i in range(len(records))]
        for i, d in zip(kept[1:], picked_at.tolist()[1:], strict=True):
            distances[i] = d  # of what is kept: how far it was from those before it
        return Selected(kept, scores={"distance": distances}, reasons=reasons)
