"""The families that claims on pre-training on graphs draw, and the share of hidden edges that is told apart."""

from __future__ import annotations

import numpy as np
import torch

from tunewright.claims.papers import _families_of_graphs as lab
from tunewright.pieces.graphons import adjacency


def graphs(family: str, count: int = 60) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    rows = [lab.graph(family, rng) for _ in range(count)]
    return [adjacency(np.array(r["edge_index"]), r["num_nodes"]) for r in rows]


def test_families_are_of_about_one_density_and_of_their_own_degrees() -> None:
    found = {f: graphs(f) for f in lab.FAMILIES}
    densities = {f: np.mean([a.sum() / (len(a) * (len(a) - 1)) for a in some]) for f, some in found.items()}
    assert all(0.15 < d < 0.27 for d in densities.values())
    assert all((a.sum(1) >= lab.ATTACHED).sum() >= len(a) - lab.ATTACHED for a in found["attached"])
    assert all(a.sum() == 2 * lab.ATTACHED * (len(a) - lab.ATTACHED) for a in found["attached"])
    spread = {f: np.mean([a.sum(1).std() / a.sum(1).mean() for a in some]) for f, some in found.items()}
    assert spread["even"] < min(spread[f] for f in ("communities", "core", "attached"))


def test_hidden_edges_are_told_apart_by_what_scores_them_higher() -> None:
    rng = np.random.default_rng(0)
    rows = [lab.graph("core", rng) for _ in range(6)]

    class Knows(lab.Network):
        whole: dict[int, torch.Tensor] = {}  # noqa: RUF012
        sign = 1.0

        def forward(self, a: torch.Tensor) -> torch.Tensor:
            return self.sign * self.whole[len(a)]

    model = Knows(0)
    for row in rows:
        seen, gone, a = lab.hidden(row, torch.Generator().manual_seed(1))
        assert not (seen * gone).any() and not (seen * gone.T).any() and bool((seen <= a).all())
        assert 0.2 < float(gone.sum() / (len(a) * (len(a) - 1) / 2)) < 0.4
        model.whole = {len(a): a}
        for sign, share in ((1.0, 1.0), (-1.0, 0.0), (0.0, 0.5)):
            model.sign = sign
            assert lab.told_apart(model, [row], 1) == share


def test_a_network_that_learnt_a_family_tells_its_hidden_edges_apart() -> None:
    rng = np.random.default_rng(0)
    rows, new = ([lab.graph("communities", rng) for _ in range(n)] for n in (30, 20))
    learnt = lab.learn(lab.Network(0), rows, 6, 3e-3, 0)
    assert lab.told_apart(learnt, new, 0) > 0.7
