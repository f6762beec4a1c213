"""ASFT gains more than plain supervised fine-tuning, and than its unanchored form DFT."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="asft",
    says=(
        "Token losses weighted by their own probability, with an anchor to the base, gain more than SFT and than "
        "the weights alone (DFT)."
    ),
    task="arithmetic",
    method=Arm(name="asft", methods=["full", "asft"]),
    baselines=[Arm(name="sft", methods=["full"]), Arm(name="dft", methods=["full", {"asft": {"anchor": 0.0}}])],
    metric="target",
    direction="higher",
    smallest=0.01,
    real={"seeds": 5},
    differs="procedural problems instead of mathematics, medicine and code",
)
