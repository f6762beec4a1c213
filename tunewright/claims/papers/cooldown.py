"""A sampling temperature that comes down learns unequal sources better than a constant one."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim


def _arm(name: str, initial: float, final: float) -> Arm:
    return Arm(name=name, methods=["full", {"cooldown": {"initial": initial, "final": final, "switch": 0.5}}])


CLAIM = Claim(
    paper="cooldown",
    says=(
        "Sampling a small source often at first and in proportion later converges faster and over-fits less: "
        "better over both than either all along."
    ),
    task="unequal",
    method=_arm("cooldown", 5.0, 1.0),
    baselines=[_arm("often", 5.0, 5.0), _arm("proportional", 1.0, 1.0)],
    metric="target",
    direction="lower",
    smallest=0.01,
    strengths=(1.0,),
    real={"seeds": 5, "budget": {"tokens": 40_000}, "rates": (3e-5, 1e-4, 3e-4)},
    differs=(
        "one tuned model and two sources, a hundred to one, judged on as many rows of each; temperatures 5 and "
        "1 and a switch half way are ours"
    ),
)
