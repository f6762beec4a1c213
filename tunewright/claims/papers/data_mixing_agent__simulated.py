"""On simulated domains that it never met, an agent fitted to others' trajectories keeps more and learns more."""

from __future__ import annotations

import math
import random
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

METHOD = "data-mixing-agent"
STAGES, FIRST = 48, 100_000
"""Stages that are steered, of other numbers than those that agents are fitted to."""
SOURCE_SHARES = (0.2, 0.3, 0.4, 0.5, 0.6)

CLAIM = Claim(
    paper=METHOD,
    says="Over simulated stages of two new and two known domains, an agent fitted to 400 others by imitation and "
    "conservative Q-learning ends with lower losses over those at first (geometric means, both fields alike) than the "
    "best of five fixed shares of the known domains, than shares that follow what has risen, and than imitation alone.",
    task="domain",
    method=Arm(name="agent", methods=["full"], uses=[METHOD]),
    baselines=[
        Arm(name="fixed", methods=["full"]),
        Arm(name="losses", methods=["full"]),
        Arm(name="imitation", methods=["full"], uses=[METHOD]),
    ],
    metric="measured",
    direction="lower",
    smallest=0.002,
    seeds=5,
    rates=(),
    scales=("nano",),
    differs="simulated domains of ours in the place of language models; 400 trajectories of 10 steps (there: 20 of "
    "80); the fixed share is the best of five on the very stages that are judged, which favours it",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Geometric mean of the losses at the end over those at the start, half of each field's, over the stages."""
    from tunewright.methods.inputs import _simulated_domains as simulated
    from tunewright.methods.inputs import _trajectories as trajectories
    from tunewright.methods.inputs.data_mixing_agent import DataMixingAgent

    there = range(FIRST + STAGES * seed, FIRST + STAGES * (seed + 1))
    looks = DataMixingAgent().looks

    def ended(choose: Any) -> float:
        played = [simulated.played(n, looks, choose) for n in there]
        return -sum(trajectories.worth(t, k, 0.5) for t in played for k in range(looks)) / len(played)

    fixed = [ended(lambda t, s=s: [(1 - s) / 2] * 2 + [s / 2] * 2) for s in SOURCE_SHARES]
    logarithms = {
        "fixed": min(fixed),
        "losses": ended(lambda t: trajectories.drawn(t, "losses", random.Random(0))),
        "agent": _steered(DataMixingAgent(), there, seed),
        "imitation": _steered(DataMixingAgent(updates=0), there, seed),
    }
    return {name: math.exp(value) for name, value in logarithms.items()}


def _steered(method: Any, there: range, seed: int) -> float:
    """The same, with shares by the method's own slot: fitted in the first stage, and asked in all."""
    from tunewright.contract.method import Plan, State
    from tunewright.methods.inputs import _simulated_domains as simulated
    from tunewright.methods.inputs import _trajectories as trajectories

    plan = Plan(method.looks, 1, "main", 0, 1e-3, 0, sources=dict.fromkeys(simulated.DOMAINS, 1))
    agent = State(trajectory=None, behaviour=None)
    agent.rng.seed(seed)
    worth = 0.0
    for n in there:
        domains, weights = simulated.Domains(n), dict.fromkeys(simulated.DOMAINS, 0.25)
        seen = SimpleNamespace(losses=lambda rows, domains=domains: domains.losses())
        if agent.data["trajectory"] is not None:  # the next stage, and the same agent
            agent.data["trajectory"] = trajectories.begun(weights, domains.losses(), simulated.OLD, method.looks + 1)
        for step in range(method.looks + 1):
            weights = method.mixture(weights, seen, step, plan, agent)
            domains.learn([weights[d] for d in simulated.DOMAINS], 1 / method.looks)
        t = agent.data["trajectory"]
        worth += sum(trajectories.worth(t, k, 0.5) for k in range(method.looks))
    return -worth / len(there)
