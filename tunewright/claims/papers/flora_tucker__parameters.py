"""In Tucker's form a convolutional network's changes take a tenth of its numbers."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers.flora_tucker import TUCKER

CLAIM = Claim(
    paper="flora-tucker",
    says="On a convolutional network changes of rank 4 along channels and 2 along each axis of a kernel, with a new "
    "head, train at most a tenth of what full tuning does.",
    task="digits",
    method=TUCKER,
    baselines=[Arm(name="full", methods=["full"])],
    metric="cost.trainable_parameters",
    direction="lower",
    relative=True,
    smallest=0.9,
    seeds=5,
    rates=(),
    budget={"steps": 2},
    strengths=(1.0,),
    extra={"evaluation": {"rows": 32, "drift_sequences": 4}},
    scales=("real",),
    differs="a count that no training changes; EfficientNet-Lite0, whose convolutions are of points or of one channel "
    "a group, in the place of ConvNeXt-L",
)
