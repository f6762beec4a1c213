"""Hiding some tokens of the reasoning while training gains over plain supervised fine-tuning."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="masked-thought",
    says=(
        "Replacing a share of the answer's input tokens while training raises accuracy on multi-step problems (5 % "
        "on GSM8K in the paper)."
    ),
    task="arithmetic",
    method=Arm(name="masked", methods=["full", {"masked-thought": {"rate": 0.4}}]),
    baselines=[Arm(name="sft", methods=["full"])],
    metric="target",
    direction="higher",
    smallest=0.02,
    learnt=0.5,
    real={"seeds": 5},
    differs="procedural problems with parseable steps instead of GSM8K; half of the rows are functions of lists, which "
    "take no steps, and a baseline that learns these alone (below 0.5) tests nothing",
)
