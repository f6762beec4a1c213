"""CoFiTune keeps more of what a model could than full fine-tuning, at the same gain."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

COFITUNE = Arm(name="cofitune", methods=["cofitune"])

CLAIM = Claim(
    paper="cofitune",
    says="Training the MLPs of the second quarter of the blocks, with units damped that general answers hang on, keeps "
    "more than full fine-tuning at the same gain (the paper: about 14 % more versatility).",
    task="arithmetic",
    method=COFITUNE,
    baselines=[Arm(name="full", methods=["full"])],
    metric="kept at matched target",
    direction="lower",
    smallest=0.02,
    at=0.9,
    seeds=5,
    real={"seeds": 5},
    differs="what is kept is the loss on general text, not scores of instruction following and common sense; range and "
    "modules are those of the authors' script, not searched",
)
