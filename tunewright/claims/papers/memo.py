"""Copies of the last block alone do as well, on a sequence of new classes, as copies of the whole model."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers.der_expandable import KEPT

CLAIM = Claim(
    paper="memo",
    says=(
        "Where classes arrive task by task, sharing all blocks but the last, of which each task has its own, is not "
        "worse on all classes at the end by more than 0.02 than an extractor of the whole model for each task, with as "
        "many rows kept."
    ),
    task="classes",
    method=Arm(name="memo", methods=[{"memo": KEPT}]),
    baselines=[Arm(name="der-expandable", methods=[{"der-expandable": KEPT}])],
    metric="target",
    direction="higher",
    smallest=-0.02,
    seeds=5,
    strengths=(1.0,),
    rates=(1e-4, 3e-4, 1e-3),
    differs="short texts instead of pictures, five tasks of two classes; equal rows instead of equal bytes, since a "
    "text is so much smaller than a block that no number of them would weigh as much",
)
