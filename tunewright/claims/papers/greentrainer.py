"""Half of the operations of full tuning do a task about as well."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="greentrainer",
    says="Training the tensors that promise most under half of full tuning's operations is at most two points behind "
    "full tuning, for as many tokens.",
    task="topics",
    method=Arm(name="greentrainer", methods=["greentrainer"]),
    baselines=[Arm(name="full", methods=["full"])],
    metric="target",
    direction="higher",
    smallest=-0.02,
    seeds=5,
    strengths=(1.0,),
    scales=("real",),
    differs="MiniLM-L6 on queries of ten domains instead of OPT and BLOOM on summaries",
)
