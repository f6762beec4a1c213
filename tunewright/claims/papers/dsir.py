"""Rows that DSIR selects for a target domain teach it better than as many rows of the pool at random."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="dsir",
    says=(
        "Training on documents resampled by hashed n-gram importance for a target does better there than training "
        "on random ones, for as many tokens."
    ),
    task="selection",
    method=Arm(name="dsir", methods=["full"], extra={"data": {"select": [{"dsir": {"keep": 0.2, "smoothing": 0.1}}]}}),
    baselines=[Arm(name="random", methods=["full"])],
    metric="target",
    direction="lower",
    smallest=0.02,
    scales=("nano",),
    differs=(
        "an adapted small model and its loss on the target domain instead of GLUE after pre-training; "
        "smoothing, since the target is small"
    ),
)
