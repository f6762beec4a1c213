"""Five families of graphs of one density, and a small graph network: what claims on pre-training on graphs share."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tunewright.contract.records import Record
from tunewright.pieces.graphons import adjacency

BLOCKS: dict[str, np.ndarray] = {
    "even": np.array([[0.2]]),
    "communities": np.array([[0.7, 0.02], [0.02, 0.2]]),
    "opposed": np.array([[0.02, 0.5, 0.5], [0.5, 0.02, 0.02], [0.5, 0.02, 0.02]]),
    "core": np.array([[0.8, 0.3, 0.1], [0.3, 0.1, 0.02], [0.1, 0.02, 0.01]]),
}
"""Edge probabilities between equal parts of the nodes; `opposed` joins a third of the nodes with all others alone."""
ATTACHED = 3
"""Edges that each node of a graph of the fifth family, `attached`, brings: to nodes by their degree."""
FAMILIES = (*BLOCKS, "attached")
WIDTH, FEATURES = 32, 4
"""Of the network's layers; powers of its degree that a node comes with."""


def graph(family: str, rng: np.random.Generator) -> dict[str, Any]:
    """A row with a graph of 20 to 40 nodes."""
    n = int(rng.integers(20, 41))
    if family != "attached":
        w = BLOCKS[family]
        own = rng.integers(len(w), size=n)
        edges = np.array(np.nonzero(np.triu(rng.random((n, n)) < w[np.ix_(own, own)], 1)))
        return {"edge_index": edges.tolist(), "num_nodes": n}
    ends, pairs = list(range(ATTACHED)), list[tuple[int, int]]()
    for new in range(ATTACHED, n):
        for old in rng.choice(sorted(set(ends)), ATTACHED, replace=False, p=_shares(ends)):
            pairs.append((int(old), new))
        ends += [e for pair in pairs[-ATTACHED:] for e in pair]
    return {"edge_index": np.array(pairs).T.tolist(), "num_nodes": n}


def _shares(ends: Sequence[int]) -> np.ndarray:
    counts = np.bincount(ends)[sorted(set(ends))]
    return np.asarray(counts / counts.sum())


def pool(rng: np.random.Generator, each: int) -> list[Record]:
    """`each` graphs of every family, which is their source."""
    return [Record(graph(f, rng), id=f"{f}:{i}", source=f) for f in FAMILIES for i in range(each)]


class Network(nn.Module):
    """Three layers of means over neighbours, and a score of each pair of nodes."""

    def __init__(self, seed: int):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = nn.ModuleList(nn.Linear(2 * w, WIDTH) for w in (FEATURES, WIDTH, WIDTH))
            self.pair = nn.Linear(WIDTH, WIDTH)

    def forward(self, a: Tensor) -> Tensor:
        """[n, n] scores of edges, by the adjacency [n, n] of what is seen; nodes come with powers of their degrees."""
        degrees = a.sum(1, keepdim=True)
        x, around = torch.cat([(degrees / 8) ** k for k in range(FEATURES)], 1), a / degrees.clamp(min=1)
        for layer in self.layers:
            x = nn.functional.layer_norm(layer(torch.cat([x, around @ x], 1)).relu(), (WIDTH,))
        score = x @ self.pair(x).T / WIDTH
        return score + score.T


def hidden(row: Record | dict[str, Any], generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """(adjacency [n, n] without three tenths of the pairs, where these are [n, n], the whole adjacency)."""
    a = torch.from_numpy(adjacency(np.array(row["edge_index"]), row["num_nodes"])).float()
    gone = torch.triu(torch.rand(a.shape, generator=generator) < 0.3, 1)
    return a * ~(gone | gone.T), gone, a


def learn(model: Network, rows: Sequence[Any], passes: int, rate: float, seed: int) -> Network:
    """The network after so many passes over graphs, of each of which some pairs are hidden and told apart."""
    generator, rng = torch.Generator().manual_seed(seed), random.Random(seed)
    adam = torch.optim.Adam(model.parameters(), lr=rate)
    with torch.enable_grad():
        for _ in range(passes):
            for row in rng.sample(list(rows), len(rows)):
                seen, gone, a = hidden(row, generator)
                adam.zero_grad()
                nn.functional.binary_cross_entropy_with_logits(model(seen)[gone], a[gone]).backward()
                adam.step()
    return model


def told_apart(model: Network, rows: Sequence[Any], seed: int) -> float:
    """Mean over graphs of how often a hidden edge scores higher than a hidden place of none."""
    generator, found = torch.Generator().manual_seed(seed), []
    with torch.no_grad():
        for row in rows:
            seen, gone, a = hidden(row, generator)
            score, edge = model(seen)[gone], a[gone] > 0
            if 0 < int(edge.sum()) < len(edge):
                apart = score[edge][:, None] - score[~edge][None]
                found.append(float((apart > 0).float().mean() + (apart == 0).float().mean() / 2))
    return sum(found) / len(found)
