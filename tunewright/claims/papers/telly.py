"""With its embeddings and lower blocks frozen an encoder learns a task as well as whole."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="telly",
    says="An encoder whose embeddings and lower half of the blocks stay is at most one point behind one that is tuned "
    "whole.",
    task="topics",
    method=Arm(name="telly", methods=[{"telly": {"layers": 3}}]),
    baselines=[Arm(name="full", methods=["full"])],
    metric="target",
    direction="higher",
    smallest=-0.01,
    seeds=5,
    strengths=(1.0,),
    scales=("real",),
    differs="MiniLM-L6 on queries of ten domains instead of UniXcoder on code; K is half of the blocks, not read off",
)
