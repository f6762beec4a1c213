"""Norms alone do a task about as well as a whole model."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="ln-tuning",
    says="A model of which only the norms and a new head train is at most two points behind one that is tuned whole.",
    task="topics",
    method=Arm(name="ln-tuning", methods=["ln-tuning"], rates=(1e-3, 3e-3, 1e-2)),
    baselines=[Arm(name="full", methods=["full"])],
    metric="target",
    direction="higher",
    smallest=-0.02,
    seeds=5,
    strengths=(1.0,),
    scales=("real",),
    differs="a text encoder on queries of ten domains; in the paper a language model is to read pictures, and norms do "
    "better than all of it",
)
