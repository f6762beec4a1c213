"""The budget of operations is kept."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="greentrainer",
    says="With rho 0.5, a run's counted operations, probes included, are at least 45 % fewer than full tuning's.",
    task="topics",
    method=Arm(name="greentrainer", methods=["greentrainer"]),
    baselines=[Arm(name="full", methods=["full"])],
    metric="cost.flops",
    direction="lower",
    relative=True,
    smallest=0.45,
    seeds=5,
    rates=(),
    budget={"steps": 40},
    strengths=(1.0,),
    extra={"measurement": {"rows": 16, "drift_sequences": 4}},
    scales=("real",),
    differs="operations as this library counts them: products with weights; the paper saves up to 64 % with a smaller "
    "rho",
)
