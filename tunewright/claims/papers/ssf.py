"""SSF does no worse than tuning every weight."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

FULL = Arm(name="full", methods=["full"], rates=(3e-5, 1e-4, 3e-4))
"""What claims about adapters on `topics` hold themselves against, so that it is run once."""

CLAIM = Claim(
    paper="ssf",
    says="Scales and shifts alone do not do worse than full tuning (the paper: they pass it, by 2 points on "
    "fine-grained pictures).",
    task="topics",
    method=Arm(name="ssf", methods=["ssf"], rates=(3e-3, 1e-2, 3e-2)),
    baselines=[FULL],
    metric="target",
    direction="higher",
    smallest=-0.01,
    seeds=5,
    strengths=(1.0,),
    scales=("nano", "real"),
    differs="a text classifier of ten topics in the place of pictures of birds, dogs and cars; a few hundred steps",
)
