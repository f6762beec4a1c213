"""A new module for each task, compressed into one model, ends a sequence of new classes better than rehearsal alone."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers.der_expandable import KEPT, REPLAY

CLAIM = Claim(
    paper="foster",
    says=(
        "Where classes arrive task by task, a module that learns what the model lacks, distilled with it into one, "
        "does better on all classes at the end than the same model trained on with the same rows kept."
    ),
    task="classes",
    method=Arm(name="foster", methods=[{"foster": KEPT}]),
    baselines=[REPLAY],
    metric="target",
    direction="higher",
    smallest=0.02,
    seeds=5,
    strengths=(1.0,),
    rates=(1e-4, 3e-4, 1e-3),
    differs="short texts instead of pictures, five tasks of two classes; the same steps for both parts together as the "
    "baseline has",
)
