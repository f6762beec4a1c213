"""At equal count, modules that are joined beside the blocks do better than modules apart."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

APART = {"at": "both", "insertion": "sequential", "composition": "add", "width": 8, "prefix_length": 0}

CLAIM = Claim(
    paper="connected-aside",
    says="With as many numbers, an adapter inside each block and one beside it reach more than two adapters inside.",
    task="topics",
    method=Arm(name="connected", methods=[{"connected-aside": {"width": 8}}]),
    baselines=[Arm(name="apart", methods=[{"mam-adapter": APART}])],
    metric="target",
    direction="higher",
    smallest=0.005,
    seeds=5,
    rates=(1e-3, 3e-3, 1e-2),
    strengths=(1.0,),
    scales=("nano", "real"),
    differs="a classifier of ten topics in the place of retrieval and re-ranking; modules guessed from the abstract",
)
