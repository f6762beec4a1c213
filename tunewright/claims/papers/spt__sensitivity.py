"""A small part of a model's entries holds much of a task's sensitivity."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunewright.claims.claim import Arm, Claim

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CLAIM = Claim(
    paper="spt",
    says="The entries that are ranked first for a budget of 0.5 % hold at least a fifth of a task's summed "
    "sensitivity; as many that are drawn hold about their share.",
    task="topics",
    method=Arm(name="sensitive", methods=["spt"]),
    baselines=[Arm(name="drawn", methods=[{"spt": {"by": "chance"}}])],
    metric="measured",
    direction="higher",
    smallest=0.2,
    seeds=5,
    rates=(),
    budget={"steps": 2},
    strengths=(1.0,),
    extra={"measurement": {"rows": 16, "drift_sequences": 4}},
    scales=("real",),
    differs="MiniLM-L6 on text instead of ViT-B/16 on pictures",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Share of the summed sensitivity in the entries that are ranked first."""
    return {arm: run.trial(arm, seed).probes["spt"]["sensitivity_share"] for arm in ("sensitive", "drawn")}
