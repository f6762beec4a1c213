"""Changes of convolutions in Tucker's form do a task about as well as a network that is tuned whole."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

TUCKER = Arm(name="tucker", methods=[{"flora-tucker": {"mode_ranks": [4, 4, 2, 2]}}], rates=(1e-3, 3e-3, 1e-2))
CLAIM = Claim(
    paper="flora-tucker",
    says="On a convolutional network changes in Tucker's form, a tenth of its numbers, are at most one point behind "
    "full tuning.",
    task="digits",
    method=TUCKER,
    baselines=[Arm(name="full", methods=["full"])],
    metric="target",
    direction="higher",
    smallest=-0.01,
    seeds=5,
    strengths=(1.0,),
    scales=("real",),
    differs="EfficientNet-Lite0 on turned digits in the place of ConvNeXt-L and others on detection, segmentation and "
    "classification; held against full tuning, where the paper also has flattened low-rank changes",
)
