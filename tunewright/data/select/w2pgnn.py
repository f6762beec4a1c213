"""W2PGNN: keep graphs of the sources from whose generators the target's graphs could have come, by graphons (Cao et al.
2023, arXiv:2303.16458; papers: w2pgnn).

Graphs of one kind are draws from a graphon, a function W of edge probabilities (`pieces/graphons.py`: a step function
[r, r]). With B_1 ... B_k fitted to parts of the records and D to all target rows' graphs, whatever is drawn from a
convex combination of the B_i can profit from training on the records, and

    distance(B) = min_a d(sum_i a_i B_i, D),   a_i >= 0, sum a_i = 1       d: Gromov-Wasserstein
    feasibility = - min over three bases of distance(B)

is how near the target comes to that. The bases are: one graphon of all records; one for each source; one for each of
`clusters` heaps of records that are alike in seven figures of their topology (k-means of the standardised figures).

Records of the source of least own distance d(B_s, D) are kept first, then those of the next; within a source heap by
heap, in the same way, and in their own order within a heap. Scores: `source` and `distance`, of a record's source and
of its heap in it; `weight`, the share a_s of its source in the best combination; `feasibility`, the same for all.

A row has its graph as `edge_index`, [[u ...], [v ...]], or as `edges`, [[u, v] ...], nodes numbered from 0, and may say
`num_nodes`; directions, loops and repetitions are left out. What is learnt stands in the row's other columns. Of graphs
of more than `most_nodes` as many nodes are drawn: their graph is a draw from the same graphon. Nodes are told apart by
their degrees: what graphs hold beyond these (equal blocks that are rarely joined) is averaged out.

From the authors' code, which was read: sorting by degree and smoothing (what its default comes to), the three bases,
five heaps, the topological figures. Ours: `resolution` 32 (there blocks of 1 + log2 n nodes, brought to one size),
`most_nodes`, `keep`.

Differs from the paper in: a graph's nodes fill [0, 1] whatever their number (there smaller graphs are padded with
nodes without edges); no total-variation smoothing afterwards; d has squared differences and plans by conditional
gradients, shares are the best for the plan in turn (there an entropic plan with Adam on logits, and a divergence); the
source goes by its own distance (there by the largest share); heaps are cut once, within each source (there again and
again). Raises DataError for a row without a graph, or with one that is none.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, PositiveInt

from tunewright.contract.method import Method
from tunewright.contract.records import Record
from tunewright.contract.selected import Selected
from tunewright.data.select._keep import Amount, how_many
from tunewright.errors import DataError
from tunewright.pieces import graphons
from tunewright.pieces.mixtures import clusters

MOST_NAMED = 20
"""Rows that are named, where several have no graph that can be read."""
REMEDY = "give each row edge_index: [[0, 1], [1, 2]] (two lists of node numbers from 0) or edges: [[0, 1], [1, 2]]"


class W2PGNN(Method):
    """Keeps graphs of the sources whose graphons come nearest to the target's."""

    keep: Amount = Field(
        0.1, gt=0, description="share of the records kept (10%, 0.1), or how many (1000)", examples=["25%", 3]
    )
    sources: str | None = Field(
        None, min_length=1, description="column that says what a row is from; none: the data source it was read from"
    )
    estimator: Literal["smooth", "gap", "usvt"] = Field(
        "smooth", description="how a graphon is fitted: sorting and smoothing, largest gaps, or singular values"
    )
    resolution: int = Field(32, ge=2, description="r, steps of a graphon to a side", examples=[8])
    clusters: PositiveInt = Field(5, description="heaps of alike topology, of all records and in each source")
    most_nodes: int = Field(512, ge=2, description="nodes of a graph that are looked at", examples=[4])

    papers: ClassVar[tuple[str, ...]] = ("w2pgnn",)
    conformance: ClassVar[dict[str, object]] = {"keep": 0.5, "resolution": 6, "clusters": 2}

    def select(self, records: Sequence[Record], target: Sequence[Record], rng: random.Random) -> Selected:
        graphs = self._graphs(records, rng)
        aimed = self._graphon([self._steps(g) for g in self._graphs(target, rng)])
        steps = [self._steps(a) for a in graphs]
        figures = np.array([graphons.topology(a) for a in graphs])
        of = [self._source(r) for r in records]
        members = {s: [i for i, own in enumerate(of) if own == s] for s in dict.fromkeys(of)}
        heaps = self._heaps(figures, rng)
        bases: list[list[list[int]]] = [[list(range(len(records)))], list(members.values()), heaps]
        found = [
            graphons.combined(np.stack([self._graphon([steps[i] for i in some]) for some in basis]), aimed)
            for basis in bases
        ]
        shares = dict(zip(members, found[1][1].tolist(), strict=True))
        source, distance = np.empty(len(records)), np.empty(len(records))
        for some in members.values():
            source[some] = self._distance([steps[i] for i in some], aimed)
            for heap in self._heaps(figures[some], rng):
                places = [some[i] for i in heap]
                distance[places] = self._distance([steps[i] for i in places], aimed)
        ranked = sorted(range(len(records)), key=lambda i: (source[i], of[i], distance[i], i))
        kept = ranked[: how_many(self.keep, len(records))]
        inside = set(kept)
        reasons = [
            "" if i in inside else f"'{of[i]}' is {source[i]:.3g} from the target, its like {distance[i]:.3g}"
            for i in range(len(records))
        ]
        scores = {
            "source": source.tolist(),
            "distance": distance.tolist(),
            "weight": [shares[s] for s in of],
            "feasibility": [-min(d for d, _ in found)] * len(records),
        }
        return Selected(kept, scores=scores, reasons=reasons)

    def _graphon(self, steps: Sequence[np.ndarray]) -> np.ndarray:
        return graphons.fitted(steps, self.estimator)

    def _distance(self, steps: Sequence[np.ndarray], aimed: np.ndarray) -> float:
        return graphons.transport(self._graphon(steps), aimed)[0]

    def _steps(self, a: np.ndarray) -> np.ndarray:
        return graphons.step_function(a, self.resolution)

    def _heaps(self, figures: np.ndarray, rng: random.Random) -> list[list[int]]:
        """Rows of [n, 7] that are alike, as at most `clusters` heaps."""
        spread = figures.std(0)
        x = (figures - figures.mean(0)) / np.where(spread > 0, spread, 1)
        own = clusters(torch.from_numpy(x), self.clusters, rng).numpy()
        return [np.flatnonzero(own == k).tolist() for k in np.unique(own)]

    def _source(self, record: Record) -> str:
        if self.sources is None:
            return record.source
        if record.get(self.sources) is None:
            raise DataError(
                f"the row has no column '{self.sources}', which says what it is from",
                where=record.where,
                remedy="name the column in w2pgnn: {sources: ...}, or leave it out for the data source",
            )
        return str(record[self.sources])

    def _graphs(self, records: Sequence[Record], rng: random.Random) -> list[np.ndarray]:
        """Each row's graph. DataError that names all rows without one that can be read, as far as MOST_NAMED."""
        graphs, wrong = list[np.ndarray](), list[DataError]()
        for record in records:
            try:
                graphs.append(self._graph(record, rng))
            except DataError as error:
                wrong.append(error)
        if len(wrong) > 1:
            named = "".join(f"\n  {e.where}: {e.what}" for e in wrong[:MOST_NAMED])
            more = f"\n  and {len(wrong) - MOST_NAMED:,} more" if len(wrong) > MOST_NAMED else ""
            said = f"{len(wrong):,} of {len(records):,} rows have no graph that can be read:{named}{more}"
            raise DataError(said, where=wrong[0].where, remedy=wrong[0].remedy)
        if wrong:
            raise wrong[0]
        return graphs

    def _graph(self, record: Record, rng: random.Random) -> np.ndarray:
        """[n, n] adjacency of a row's graph."""
        edges, nodes = _edges(record), record.get("num_nodes")
        least = int(edges.max()) + 1 if edges.size else 0
        if isinstance(nodes, float) and nodes.is_integer():  # of a table whose column has gaps
            nodes = int(nodes)
        count = least if nodes is None or nodes != nodes else nodes
        if not count:
            raise DataError(
                "the graph has no edge, and nothing says how many nodes it has",
                where=record.where,
                remedy="write num_nodes, or take the row out",
            )
        if not isinstance(count, int) or isinstance(count, bool) or count < max(least, 1):
            raise DataError(
                f"num_nodes is {nodes!r}, and its edges name {least} nodes",
                where=record.where,
                remedy="give as many as there are, at least one, or leave num_nodes out",
            )
        if count > self.most_nodes:
            places = np.full(count, -1)
            places[sorted(rng.sample(range(count), self.most_nodes))] = np.arange(self.most_nodes)
            edges = places[edges]
            edges, count = edges[:, (edges >= 0).all(0)], self.most_nodes
        return graphons.adjacency(edges, count)


def _edges(record: Record) -> np.ndarray:
    """[2, m] of a row's edges. DataError where it has none that can be read."""
    indexed = record.get("edge_index") is not None
    given: Any = record.get("edge_index" if indexed else "edges")
    if given is None:
        raise DataError("the row has no graph, and w2pgnn selects by graphs", where=record.where, remedy=REMEDY)
    try:
        edges = np.array(given)
    except ValueError:  # lists of unequal lengths
        edges = np.array("ragged")
    if edges.size == 0:
        return np.zeros((2, 0), np.int64)
    edges = edges if indexed else edges.T
    if edges.ndim != 2 or len(edges) != 2 or edges.dtype.kind != "i" or edges.min() < 0:
        raise DataError("its edges are no pairs of node numbers", where=record.where, remedy=REMEDY)
    return edges
