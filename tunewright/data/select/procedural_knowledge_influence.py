"""Procedural knowledge: keep the records whose training made target rows likely, by EK-FAC influence functions (Ruis et
al. 2024, arXiv:2411.12580; papers: procedural-knowledge-influence).

With L(z) the sum of a row's losses in nats, g(z) its gradient by the weights of some layers, T_j the j-th kind of
target rows and G the Gauss-Newton matrix of the records by EK-FAC (`pieces/ekfac.py`), a record z has the influence

    s_j(z) = (sum_(t in T_j) g(t))^T (G + lambda I)^-1 g(z) / sum_(t in T_j) L(t)          s(z) = mean_j s_j(z)

on the log-likelihood of that kind, per nat that it has to tell: how much likelier the target becomes, to first order,
for each more that z counts in training. The records of largest s are kept, largest first. Kinds are the target's
sources, as in less: write a file for each; each kind's s_j is a score of its own.

What reads the records should have learnt them: influence is that of a finished training, and `model: start` is what
the stage starts from. A record costs a forward and a backward, one of those that the matrix is estimated on three (and
memory for in^2 + out^2 + in out numbers a layer and in out for each kind).

The paper's (from its abstract, and from memory of its text; its code is not public): EK-FAC, the feed-forward layers
alone, queries' completions, influence per nat of query. From kronfluence, whose code was read and whose scores
these are (`labels: given`, all linear layers): lambda a tenth of the mean of the values of each layer, biases as
columns, labels drawn from the model's own distribution for G. Ours: `keep`, `fit`, and that kinds are averaged.

Differs from the paper in: it looks at documents and does not select; records and target rows are of the recipe's task
and may be cut into pieces, whose losses add up. `by: token` divides a record's influence by its trained tokens, since a
long record has more to say in all. Raises MethodError for a model without such layers and for a gradient that is not
finite (the row is named), DataError for target rows of which nothing is learnt.
"""

from __future__ import annotations

import inspect
import math
import random
from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor

from tunewright.contract.method import Method, torch_generator
from tunewright.contract.reader import Reader
from tunewright.contract.records import Record
from tunewright.contract.selected import Selected
from tunewright.data.select._keep import Amount, below, how_many, smallest
from tunewright.errors import DataError, MethodError
from tunewright.models.sites import Site
from tunewright.pieces import ekfac

NAME = "procedural-knowledge-influence"
CODE = inspect.getsource(ekfac)


class ProceduralKnowledgeInfluence(Method):
    """Keeps the records of largest EK-FAC influence on the target."""

    keep: Amount = Field(
        0.05, gt=0, description="share of the records kept (10%, 0.1), or how many (1000)", examples=["25%", 3]
    )
    target_modules: str | tuple[str, ...] = Field(
        "mlp",
        description="linear layers whose weights count: mlp (those outside of attentions), all-linear, or names or "
        "endings of them",
        examples=["all-linear"],
    )
    fit: PositiveInt = Field(256, description="records, drawn, that the matrix is estimated on", examples=[4])
    labels: Literal["drawn", "given"] = Field(
        "drawn", description="what the matrix takes for right: a draw of the model's own, or the records' tokens"
    )
    damping: NonNegativeFloat = Field(0.1, description="lambda, of the mean of a layer's values", examples=[1.0])
    by: Literal["row", "token"] = Field("row", description="whose influence: a whole record's, or its mean token's")
    model: str = Field(
        "start", description="what reads the records: start (of the stage), or one of the recipe's `models`"
    )

    takes_gradients: ClassVar[bool] = True
    papers: ClassVar[tuple[str, ...]] = (NAME,)
    conformance: ClassVar[dict[str, object]] = {"keep": 0.5}

    def speakers(self) -> tuple[str, ...]:
        return (self.model,)

    def select(
        self, records: Sequence[Record], target: Sequence[Record], readers: dict[str, Reader], rng: random.Random
    ) -> Selected:
        reader, seed = readers[self.model], rng.getrandbits(63)
        reader.refuse_a_new_head()
        told = self.model_dump(mode="json", exclude={"keep", "model"})
        how = {**told, "seed": seed, "n": len(records), "pieces": CODE}
        kinds = list(dict.fromkeys(t.source for t in target))

        def influences() -> Tensor:
            return self._influences(records, target, kinds, reader, random.Random(seed))

        found = reader.remembered(NAME, [*records, *target], how, influences)
        s = found.mean(1).tolist()
        kept = smallest([-x for x in s], how_many(self.keep, len(records)))
        least, inside = s[kept[-1]], set(kept)
        reasons = ["" if i in inside else below("influence", s[i], least) for i in range(len(records))]
        apart = {f"on {k}": found[:, j].tolist() for j, k in enumerate(kinds)} if len(kinds) > 1 else {}
        return Selected(kept, scores={"influence": s, **apart}, reasons=reasons)

    def _sites(self, reader: Reader) -> list[Site]:
        structure = reader.adapted.structure
        if self.target_modules == "mlp":
            found = [s for s in structure.linear_sites() if s.role == "mlp"]
        else:
            found = [s for s in structure.match(self.target_modules) if s.kind in ("linear", "conv1d") and not s.unfit]
        if not found:
            raise MethodError(
                f"'{reader.name}' has no such linear layer in its blocks, and {NAME} reads gradients of these",
                where=f"{NAME}.target_modules",
                remedy="name others (all-linear), or select by representations: rds-plus or got-d",
            )
        return found

    def _influences(
        self,
        records: Sequence[Record],
        target: Sequence[Record],
        kinds: Sequence[str],
        reader: Reader,
        rng: random.Random,
    ) -> Tensor:
        """[n, kinds] influence of each record on each kind of target rows."""
        some = records if len(records) <= self.fit else rng.sample(list(records), self.fit)
        drawn = rng.getrandbits(63) if self.labels == "drawn" else None
        with ekfac.watching(self._sites(reader)) as watch:
            factors = ekfac.corrected(ekfac.bases(_read(some, reader, watch, drawn)), _read(some, reader, watch, drawn))
            wanted = {}
            for kind in kinds:
                sums, nats = {n: torch.zeros_like(f.values) for n, f in factors.items()}, 0.0
                for record in target:
                    if record.source == kind:
                        sides, loss = _sides(record, reader, watch)
                        nats += loss
                        for name, g in ekfac.gradients(sides).items():
                            if name in sums:  # experts that no record met have no factors
                                sums[name] += g
                if not nats:
                    raise DataError(
                        f"the {kind or 'target'} rows have nothing that is learnt: their loss is 0",
                        where="data.select",
                        remedy="give rows with an answer or a text",
                    )
                wanted[kind] = {n: factors[n].solved(g, self.damping) / nats for n, g in sums.items()}
            out = torch.zeros(len(records), len(kinds))
            for i, (record, size) in enumerate(zip(records, reader.sizes(records), strict=True)):
                found = ekfac.gradients(_sides(record, reader, watch)[0])
                each = [sum(float((g * found[n]).sum()) for n, g in w.items() if n in found) for w in wanted.values()]
                out[i] = torch.tensor(each) / (size if self.by == "token" else 1)
        return out


def _read(records: Sequence[Record], reader: Reader, watch: ekfac.Watch, drawn: int | None) -> Iterator[ekfac.Sides]:
    """Both sides of each record, its own tokens or those drawn by a seed (the same each time) for right."""
    generator = None if drawn is None else torch_generator(random.Random(drawn))
    for record in records:
        yield _sides(record, reader, watch, generator)[0]


def _sides(
    record: Record, reader: Reader, watch: ekfac.Watch, generator: torch.Generator | None = None
) -> tuple[ekfac.Sides, float]:
    """(both sides of a record's layers, its loss in nats, summed). MethodError for what is not finite."""
    rows = reader.rows_of(record)
    reader.tokens += sum(r.size for r in rows)
    reader.bring()
    loss = torch.zeros((), device=reader.device)
    with reader.adapted.evaluating():
        for row in rows:  # one by one: a batch would hold padding
            batch = reader.task.collate([row], reader.packed, seed=reader.seed).to(reader.device)
            outputs = reader.task.forward(reader.adapted.outer, batch)
            right = outputs.log_probs() if generator is None else _by_itself(outputs.logits, generator)
            loss = loss - right.sum()
        sides, nats = watch.sides(loss), float(loss.detach())
    if not all(bool(torch.isfinite(x).all()) for pair in sides.values() for x in pair) or not math.isfinite(nats):
        raise MethodError(
            "the gradient of this row is no finite number",
            where=record.where,
            remedy="look at this row and at the model's weights, or take the row out",
        )
    return sides, nats


def _by_itself(logits: Tensor, generator: torch.Generator) -> Tensor:
    """[T] log-probabilities of tokens that are drawn by them, of logits [T, V]; of logits that are not finite those of
    the first token, which are not finite either.
    """
    log_probs = logits.float().log_softmax(-1)
    shares = log_probs.detach().exp().cpu()
    drawn = torch.zeros(len(shares), 1, dtype=torch.long)
    if bool(torch.isfinite(shares).all()):
        drawn = torch.multinomial(shares, 1, generator=generator)
    drawn = drawn.to(logits.device)
    return log_probs.gather(-1, drawn)[:, 0]
