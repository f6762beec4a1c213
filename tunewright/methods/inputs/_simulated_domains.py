"""Stages of simulated domains, from which an agent may be fitted before there is a run (ours).

Two domains are of the target field, two of the source field. Domain i has u_i, what is known of it, and a loss

    floor_i + range_i (1 + u_i)^(-1/2)
    du_i / dt = 3 speed_i e_i (1 - u_i / most_i) - forgetting_i (1 - e_i) u_i,    e_i = sum_j T_ij share_j

with T_ii = 1 and a little help between domains. A stage lasts from t = 0 to 1. The source field begins with all that
can be known of it and is forgotten fast, the target field with little. All constants are drawn for each stage.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

from tunewright.methods.inputs import _trajectories

NEW, OLD = ("new-0", "new-1"), ("old-0", "old-1")
DOMAINS = (*NEW, *OLD)
BEHAVIOURS = ("random", "random", "anneal", "losses")
PARTS = 10
"""Euler steps from one look to the next."""


class Domains:
    """What is known of four domains while a mixture is learnt; constants are drawn by the seed."""

    def __init__(self, seed: int):
        rng = random.Random(f"simulated domains {seed}")
        self._speed = [_between(rng, 1, 30) for _ in DOMAINS]
        self._most = [_between(rng, 10, 40) for _ in DOMAINS]
        self._forgetting = [_between(rng, *((0.3, 6) if n in OLD else (0.05, 0.3))) for n in DOMAINS]
        self._known = [self._most[i] if n in OLD else _between(rng, 0.05, 1) for i, n in enumerate(DOMAINS)]
        self._help = [[1.0 if i == j else rng.uniform(0, 0.25) for j in range(4)] for i in range(4)]
        self._floor = [rng.uniform(0.8, 1.6) for _ in DOMAINS]
        self._range = [rng.uniform(3, 6) for _ in DOMAINS]

    def losses(self) -> dict[str, float]:
        each = zip(DOMAINS, self._floor, self._range, self._known, strict=True)
        return {n: floor + width / math.sqrt(1 + known) for n, floor, width, known in each}

    def learn(self, shares: Sequence[float], time: float) -> None:
        """Go on for a part of the stage with shares [4], in the order of `DOMAINS`."""
        met = [sum(t * s for t, s in zip(row, shares, strict=True)) for row in self._help]
        for _ in range(PARTS):
            for i, e in enumerate(met):
                learnt = 3 * self._speed[i] * e * (1 - self._known[i] / self._most[i])
                forgotten = self._forgetting[i] * max(1 - e, 0) * self._known[i]
                self._known[i] = max(self._known[i] + time / PARTS * (learnt - forgotten), 0.0)


def _between(rng: random.Random, low: float, high: float) -> float:
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def played(
    seed: int, looks: int, choose: Callable[[_trajectories.Trajectory], Sequence[float]]
) -> _trajectories.Trajectory:
    """A stage in which `choose` gives the shares at each look."""
    there = Domains(seed)
    t = _trajectories.begun(dict.fromkeys(DOMAINS, 0.25), there.losses(), OLD, looks + 1)
    for _ in range(looks + 1):
        losses = there.losses()
        t["looks"].append({"losses": [losses[n] for n in sorted(losses)]})
        t["looks"][-1]["shares"] = list(choose(t))
        there.learn(t["looks"][-1]["shares"], 1 / looks)
    return t


def explored(seed: int, looks: int) -> _trajectories.Trajectory:
    """A stage whose mixtures are drawn."""
    rng = random.Random(f"mixtures {seed}")
    behaviour = rng.choice(BEHAVIOURS)
    return played(seed, looks, lambda t: _trajectories.drawn(t, behaviour, rng))
