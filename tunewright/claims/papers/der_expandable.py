"""An extractor for each task ends a sequence of new classes better than one model that trains on with as many rows."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

KEPT = {"buffer_size": 100}
REPLAY = Arm(name="er", methods=["full", {"er": {**KEPT, "keep": "herding"}}])

CLAIM = Claim(
    paper="der-expandable",
    says=(
        "Where classes arrive task by task, a feature extractor for each task, all answering together, does better on "
        "all classes at the end than one model that trains on, with the same rows kept."
    ),
    task="classes",
    method=Arm(name="der-expandable", methods=[{"der-expandable": KEPT}]),
    baselines=[REPLAY],
    metric="target",
    direction="higher",
    smallest=0.02,
    seeds=5,
    strengths=(1.0,),
    rates=(1e-4, 3e-4, 1e-3),
    differs="short texts instead of pictures, five tasks of two classes on a pre-trained base; no masks, no second "
    "training of the answer",
)
