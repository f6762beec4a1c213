"""explained_variance: the directions in which the inputs of each linear site vary most, and a rank for each by them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from tunewright.contract.batch import Batch
from tunewright.contract.method import Need
from tunewright.methods.needs import _held
from tunewright.models.sites import Site
from tunewright.pieces.incremental_svd import IncrementalSVD
from tunewright.pieces.target_modules import by_pattern


class ExplainedVariance(Need):
    """{"components.<site>": V [r, in], "singular.<site>": S [r], "ratio.<site>": [r]}, fp32, r the site's rank, perhaps
    0; {"settled": []}, the share of sites whose directions stood still.

    One pass in evaluation mode, without gradient. Each site has rank x rho candidates (no more than its narrower side);
    of all sites' candidates those of the largest share of their site's variance are kept, as many as the ranks sum to.
    Sites that read the same tensor share one decomposition. A site is not read further once the directions that it is
    to have are settled: cosine to what they were a batch before of `tau` or more. Rows are drawn by the seed; a site
    that no token reaches is absent. Held at once: rho x rank vectors a site, and one site's inputs of one batch.
    """

    name: ClassVar[str] = "explained_variance"
    when: ClassVar[Literal["once"]] = "once"

    source: str = Field(description="name of the rows to read: train, keep ...")
    samples: PositiveInt = Field(description="rows to read at most")
    tokens: PositiveInt = Field(description="tokens of a batch, about")
    target_modules: str | tuple[str, ...] = Field("all-linear", description="sites to look at")
    rank: PositiveInt = Field(description="rank of a site before ranks are shared out anew")
    rank_pattern: tuple[tuple[str, int], ...] = Field((), description="ranks of sites that differ")
    rho: float = Field(ge=1, description="candidates of a site, as a multiple of its rank")
    tau: float = Field(ge=0, le=1, description="cosine at which a direction is settled")
    answers: bool = Field(description="of a causal model read those tokens alone that are trained on")

    def check(self, run: Any) -> None:
        run.source(self.source)

    def compute(self, run: Any, batch: Batch | None = None) -> dict[str, Tensor]:
        def counted(batch: Batch) -> Tensor | None:
            return trained_on(batch) if self.answers and run.task.is_a("text-generation") else present(batch)

        return _held.kept(
            self,
            run,
            lambda sites: directions(
                sites,
                {s.name: by_pattern(dict(self.rank_pattern), s.name, self.rank) for s in sites},
                self.rho,
                self.tau,
                lambda b: run.task.forward(run.adapted.model, b),
                run.batches(self.source, self.samples, self.tokens),
                counted,
            ),
        )


def present(batch: Batch) -> Tensor | None:
    """Which of a batch's places [R x L] hold a token, None where all do."""
    attention = batch.inputs.get("attention_mask")
    return None if attention is None else attention.flatten().bool()


def trained_on(batch: Batch) -> Tensor:
    """Which of a causal model's places hold a token that is a target itself: those behind the batch's `positions`."""
    assert batch.positions is not None
    ids = batch.inputs["input_ids"]
    places = torch.zeros(ids.numel(), dtype=torch.bool, device=ids.device)
    places[batch.positions + 1] = True
    return places


def directions(
    sites: list[Site],
    ranks: Mapping[str, int],
    rho: float,
    tau: float,
    forward: Callable[[Batch], Any],
    batches: Iterable[Batch],
    counted: Callable[[Batch], Tensor | None],
) -> dict[str, Tensor]:
    """What `ExplainedVariance` gives, of sites with these ranks. `counted` says which places of a batch are read."""
    most = {s.name: min(round(ranks[s.name] * rho), s.in_features, s.out_features) for s in sites}
    leader: dict[str, str] = {}
    found: dict[str, IncrementalSVD] = {}
    settled: dict[str, Tensor] = {}
    given, reading, mask = dict(most), set[str](), None
    last: tuple[str, Tensor] | None = None

    def read(name: str, x: Tensor) -> None:
        nonlocal last
        if name not in leader:  # the first pass, in which no row counts, tells which sites read one tensor
            leader[name] = leader[last[0]] if last is not None and last[1] is x else name
            last = (name, x)
        elif name in reading:
            rows = x.detach().flatten(0, -2)
            seen, before = found[name], found[name].components
            seen.see(rows[mask] if mask is not None and len(mask) == len(rows) else rows)
            k = min(len(before), len(seen.components))
            settled[name] = torch.zeros(len(seen.components), dtype=torch.bool)
            if k:
                settled[name][:k] = (torch.cosine_similarity(before[:k], seen.components[:k]) >= tau).cpu()

    hooks = [s.module.register_forward_pre_hook(lambda _, args, name=s.name: read(name, args[0])) for s in sites]
    try:
        with torch.no_grad():
            for batch in batches:
                if not leader:
                    forward(batch)
                    last = None
                    for s in sites:
                        if s.name in leader:
                            most[s.name] = max(most[n] for n, of in leader.items() if of == leader[s.name])
                    found = {n: IncrementalSVD(most[n]) for n in most if leader.get(n) == n}
                reading = {n for n in found if not _done(settled.get(n), given.get(n, most[n]))}
                if not reading:
                    break
                mask = counted(batch)
                forward(batch)
                given = allotted(found, leader, most, sum(ranks.values()))
    finally:
        for h in hooks:
            h.remove()
    still = [_done(settled.get(leader[n]), given[n]) for n in given]
    result = {"settled": torch.tensor(sum(still) / max(1, len(still)))}
    for n, r in given.items():
        seen = found[leader[n]]
        result[f"components.{n}"], result[f"singular.{n}"] = seen.components[:r], seen.singular[:r]
        result[f"ratio.{n}"] = seen.ratio[:r].float()
    return result


def _done(settled: Tensor | None, rank: int) -> bool:
    return settled is not None and len(settled) >= rank and bool(settled[:rank].all())


def allotted(
    found: Mapping[str, IncrementalSVD], leader: Mapping[str, str], most: Mapping[str, int], budget: int
) -> dict[str, int]:
    """The rank of each site: how many of the `budget` candidates of the largest share of variance are its own.

    Ties go to the sites that come first; among sites of one input, the one that is decomposed has the highest rank.
    """
    names = [n for n in leader if n in found and found[n].count]
    names += [n for n, of in leader.items() if n != of and found[of].count]
    shares = [found[leader[n]].ratio[: most[n]] for n in names]
    owners = [n for n, s in zip(names, shares, strict=True) for _ in s]
    order = torch.cat(shares or [torch.zeros(0)]).argsort(descending=True, stable=True)
    counts = Counter(owners[i] for i in order[:budget].tolist())
    ranks = {n: counts[n] for n in names}
    for n in names:
        of = leader[n]
        if ranks[n] > ranks[of]:
            ranks[n], ranks[of] = ranks[of], ranks[n]
    return ranks
