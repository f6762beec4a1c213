"""S2FT trains in less memory than full tuning."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="s2ft",
    says="With slices of 3 % of the MLP channels, gradients, optimizer state and the inputs that wait for the backward "
    "pass shrink: at least 10 % less memory than full tuning.",
    task="topics",
    method=Arm(name="s2ft", methods=["s2ft"]),
    baselines=[Arm(name="full", methods=["full"])],
    metric="cost.peak_memory_bytes",
    direction="lower",
    relative=True,
    smallest=0.1,
    seeds=5,
    rates=(),
    budget={"steps": 6},
    strengths=(1.0,),
    extra={"train": {"batch_tokens": 4096}, "evaluation": {"rows": 32}},
    scales=("real",),
    differs="the process's peak, the model's weights and the libraries in it; the paper saves up to two thirds of a "
    "language model's memory in training",
)
