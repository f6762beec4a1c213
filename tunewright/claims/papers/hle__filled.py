"""What the filled-in levels add, with all else the same."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers.hle import TREE

CLAIM = Claim(
    paper="hle",
    says=(
        "Where classes come coarse first and finer later, learning the levels that a row's label lacks, by the tree "
        "and by what the model is sure of, does better on both levels at the end than learning each row's own level "
        "alone."
    ),
    task="levels",
    method=Arm(name="hle", methods=["full", {"hle": TREE}]),
    baselines=[Arm(name="own-level", methods=["full", {"hle": {**TREE, "pseudo_weight": 0.0}}])],
    metric="target",
    direction="higher",
    smallest=0.01,
    seeds=5,
    strengths=(1.0,),
    rates=(1e-4, 3e-4, 1e-3),
    differs="short texts instead of pictures, two levels of five and twenty classes; three passes over each level's "
    "rows instead of one",
)
