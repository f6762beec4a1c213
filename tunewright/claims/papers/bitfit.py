"""Biases alone do a task about as well as a whole encoder."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="bitfit",
    says="With few to middling rows, an encoder of which only the biases and a new head train is at most two points "
    "behind one that is tuned whole.",
    task="topics",
    method=Arm(name="bitfit", methods=["bitfit"], rates=(1e-3, 3e-3, 1e-2)),
    baselines=[Arm(name="full", methods=["full"])],
    metric="target",
    direction="higher",
    smallest=-0.02,
    seeds=5,
    strengths=(1.0,),
    scales=("real",),
    differs="queries of ten domains and MiniLM-L6 instead of GLUE and BERT; as many tokens for both, where the paper "
    "gives biases more epochs on small sets",
)
