"""Entries unmasked step by step learn a task better than as many that are fixed at the start."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

RATES = (3e-4, 1e-3, 3e-3)
CLAIM = Claim(
    paper="id3",
    says="With a budget of 1 % of the entries, unmasking them step by step does a task better than unmasking all of "
    "them by the first gradient.",
    task="topics",
    method=Arm(name="id3", methods=["id3"], rates=RATES),
    baselines=[Arm(name="fixed", methods=[{"id3": {"until": 0.0}}], rates=RATES)],
    metric="target",
    direction="higher",
    smallest=0.01,
    seeds=5,
    strengths=(1.0,),
    scales=("real",),
    differs="MiniLM-L6 on queries of ten domains instead of GLUE; p 0, the authors' example, so that both masks go by "
    "the gradient alone",
)
