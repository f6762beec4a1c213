"""Polyhistor trains a tenth of the numbers of networks that write whole adapters."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="polyhistor",
    says="Networks that write factors of a template, with kernels for each layer, have at most a tenth of the numbers "
    "of those that write an adapter of the same width whole.",
    task="intents",
    method=Arm(name="polyhistor", methods=["polyhistor"]),
    baselines=[Arm(name="whole", methods=["hypter"])],
    metric="cost.trainable_parameters",
    direction="lower",
    relative=True,
    smallest=0.9,
    seeds=5,
    rates=(),
    budget={"steps": 2},
    strengths=(1.0,),
    extra={"measurement": {"rows": 16, "drift_sequences": 4}},
    scales=("nano",),
    differs="hypter's networks, one for each attention, in the place of those that the paper compares with; text, "
    "one task, a model whose layers are equally wide; polyhistor has twice as many adapters",
)
