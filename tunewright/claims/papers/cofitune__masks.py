"""CoFiTune's soft masks keep more than its choice of modules alone."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers.cofitune import COFITUNE

CLAIM = Claim(
    paper="cofitune",
    says="With the same modules trained, damping the units that matter keeps more at the same gain than not to damp "
    "any.",
    task="arithmetic",
    method=COFITUNE,
    baselines=[Arm(name="coarse", methods=[{"cofitune": {"damp": "nothing"}}])],
    metric="kept at matched target",
    direction="lower",
    smallest=0.005,
    at=0.9,
    seeds=5,
    real={"seeds": 5},
    differs="steps are damped, not gradients, whose factors Adam undoes; what is kept is the loss on general text",
)
