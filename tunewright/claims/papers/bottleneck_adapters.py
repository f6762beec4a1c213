"""Adapters do no worse than tuning every weight."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers.ssf import FULL

CLAIM = Claim(
    paper="bottleneck-adapters",
    says="Adapters behind attention and feed-forward part come within a point of full tuning (the paper: within 0.4 "
    "points on GLUE).",
    task="topics",
    method=Arm(name="houlsby", methods=[{"bottleneck-adapters": {"config": "houlsby"}}], rates=(1e-3, 3e-3, 1e-2)),
    baselines=[FULL],
    metric="target",
    direction="higher",
    smallest=-0.01,
    seeds=5,
    strengths=(1.0,),
    scales=("nano", "real"),
    differs="one task of ten topics on a small encoder; no norms train beside",
)
