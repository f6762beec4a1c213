"""How near a source's graphon is to the target's foretells what pre-training on it brings; densities foretell less."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import spearmanr

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers import _families_of_graphs as lab
from tunewright.claims.papers.w2pgnn import EACH, TARGETS, drawn, reached, selected

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CLAIM = Claim(
    paper="w2pgnn",
    says="Over five sources of graphs, the rank correlation of the nearness of a source's graphon to the target's with "
    "what a small graph network reaches after pre-training on that source is higher than that of the nearness of "
    "their densities.",
    task="intents",
    method=Arm(name="graphons", methods=["full"], uses=["w2pgnn"]),
    baselines=[Arm(name="densities", methods=["full"])],
    metric="measured",
    direction="higher",
    smallest=0.2,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    differs="families made by rule and hidden edges, as in the claim w2pgnn; the paper correlates with accuracies on "
    "labels of molecules and of nodes of social networks",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Mean over four targets of the rank correlation; beside it how often the target's own family is the nearest."""
    found: dict[str, list[float]] = {"graphons": [], "densities": [], "own family": []}
    for target in TARGETS:
        pool, known, new = drawn(seed, target)
        said = selected(pool, known, seed).scores["source"]
        parts = [pool[i * EACH : (i + 1) * EACH] for i in range(len(lab.FAMILIES))]
        gains = [reached(some, known, new, seed) for some in parts]
        far = [said[i * EACH] for i in range(len(parts))]
        own = np.mean([_density(r) for r in known])
        apart = [abs(np.mean([_density(r) for r in some]) - own) for some in parts]
        found["graphons"].append(-float(spearmanr(far, gains).statistic))
        found["densities"].append(-float(spearmanr(apart, gains).statistic))
        found["own family"].append(float(lab.FAMILIES[int(np.argmin(far))] == target))
    return {name: float(np.mean(values)) for name, values in found.items()}


def _density(row: dict[str, object]) -> float:
    edges, n = np.array(row["edge_index"]), row["num_nodes"]
    assert isinstance(n, int)
    return 2 * edges.shape[1] / (n * (n - 1))
