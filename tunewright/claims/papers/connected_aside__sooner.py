"""Joined modules learn sooner."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers.connected_aside import APART

CLAIM = Claim(
    paper="connected-aside",
    says="After a quarter of the tokens joined modules are further than as many that stand apart: the path beside the "
    "blocks makes training quicker.",
    task="topics",
    method=Arm(name="connected", methods=[{"connected-aside": {"width": 8}}]),
    baselines=[Arm(name="apart", methods=[{"mam-adapter": APART}])],
    metric="target",
    direction="higher",
    smallest=0.01,
    seeds=5,
    budget={"tokens": 5_000},
    rates=(1e-3, 3e-3, 1e-2),
    strengths=(1.0,),
    scales=("nano", "real"),
    differs="a classifier of ten topics in the place of retrieval; one length of training in the place of curves",
)
