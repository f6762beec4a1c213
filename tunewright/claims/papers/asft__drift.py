"""ASFT drifts less than SFT and DFT at the same gain."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="asft",
    says=(
        "The anchor to the base mends the drift of probability-weighted fine-tuning: less divergence from the base "
        "than SFT and DFT at the same gain."
    ),
    task="arithmetic",
    method=Arm(name="asft", methods=["full", "asft"]),
    baselines=[Arm(name="sft", methods=["full"]), Arm(name="dft", methods=["full", {"asft": {"anchor": 0.0}}])],
    metric="drift at matched target",
    direction="lower",
    smallest=0.02,
    at=0.9,
    real={"seeds": 5},
    differs="procedural problems instead of mathematics, medicine and code",
)
