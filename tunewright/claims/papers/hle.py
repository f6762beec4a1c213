"""A tree that fills in the levels a label lacks ends a sequence from coarse to fine better than replay alone."""

from __future__ import annotations

from typing import Any

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab.rows import LEVELS

KEPT = {"buffer_size": 100}
TREE: dict[str, Any] = {**KEPT, "tree": {coarse: list(fine) for coarse, fine in LEVELS.items()}}

CLAIM = Claim(
    paper="hle",
    says=(
        "Where classes come coarse first and finer later, filling in the levels that a row's label lacks, with newly "
        "seen classes first among the kept rows, does better on both levels at the end than replay alone with as many "
        "rows kept."
    ),
    task="levels",
    method=Arm(name="hle", methods=["full", {"hle": TREE}]),
    baselines=[Arm(name="er", methods=["full", {"er": KEPT}])],
    metric="target",
    direction="higher",
    smallest=0.01,
    seeds=5,
    strengths=(1.0,),
    rates=(1e-4, 3e-4, 1e-3),
    differs="short texts instead of pictures, two levels of five and twenty classes; three passes over each level's "
    "rows instead of one; replay alone is the one baseline",
)
