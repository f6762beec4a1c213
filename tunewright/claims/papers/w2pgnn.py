"""Graphs of the source that is nearest by graphons pre-train a network better than as many of all sources."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers import _families_of_graphs as lab
from tunewright.contract.records import Record
from tunewright.contract.selected import Selected
from tunewright.data.select.w2pgnn import W2PGNN

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

EACH, ASKED, FEW, NEW = 40, 20, 2, 40
"""Graphs of each source, and that are kept; of the target, of these those that are tuned on, and new ones."""
TARGETS = lab.FAMILIES[1:]  # of `even` nothing can be told: all its pairs are alike
CLAIM = Claim(
    paper="w2pgnn",
    says="Of a pool of five families of graphs, those that W2PGNN keeps for a target family pre-train a small graph "
    "network to tell hidden edges of that family from other pairs, after tuning on two of its graphs, better than as "
    "many graphs of the pool drawn at random.",
    task="intents",
    method=Arm(name="w2pgnn", methods=["full"], uses=["w2pgnn"]),
    baselines=[Arm(name="random", methods=["full"])],
    metric="measured",
    direction="higher",
    smallest=0.01,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    differs="families made by rule (the lab has no real graphs and no data set of molecules), 40 graphs of 20 to 40 "
    "nodes each, and hidden edges, in the place of molecules and social networks with their labels; the network is the "
    "claim's own, at rates that were not tuned",
)


def drawn(seed: int, target: str) -> tuple[list[Record], list[Record], list[dict[str, Any]]]:
    """(the pool, graphs of the target that are known, new ones)."""
    rng = np.random.default_rng([seed, lab.FAMILIES.index(target)])
    known = [Record(lab.graph(target, rng), id=f"target:{i}", source="target") for i in range(ASKED)]
    return lab.pool(rng, EACH), known, [lab.graph(target, rng) for _ in range(NEW)]


def selected(pool: list[Record], known: list[Record], seed: int) -> Selected:
    """What the selector says of the pool, and keeps of it."""
    return W2PGNN(keep=EACH).select(pool, known, random.Random(seed))


def reached(rows: list[Record], known: list[Record], new: list[dict[str, Any]], seed: int) -> float:
    """How well hidden edges of new graphs are told apart after pre-training on rows and tuning on few known ones."""
    model = lab.learn(lab.Network(seed), rows, 10, 3e-3, seed) if rows else lab.Network(seed)
    return lab.told_apart(lab.learn(model, known[:FEW], 20, 1e-3, seed), new, seed)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Mean over four targets; beside it without pre-training."""
    found = dict[str, list[float]]()
    for target in TARGETS:
        pool, known, new = drawn(seed, target)
        arms = {
            "w2pgnn": [pool[i] for i in selected(pool, known, seed).indices],
            "random": random.Random(seed).sample(pool, EACH),
            "from nothing": [],
        }
        for arm, rows in arms.items():
            found.setdefault(arm, []).append(reached(rows, known, new, seed))
    return {arm: float(np.mean(values)) for arm, values in found.items()}
