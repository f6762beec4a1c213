"""Scaling a change by depth keeps more than scaling all of it alike, at the same gain."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="lines",
    says=(
        "Scaling the change of shallow blocks down and of deep ones not at all forgets less than scaling all "
        "blocks alike, at the same gain."
    ),
    task="intents",
    method=Arm(name="lines", methods=["full"], extra={"after": [{"lines": {"alpha": 0.3}}]}),
    baselines=[Arm(name="full", methods=["full"])],
    metric="kept at matched target",
    direction="lower",
    smallest=0.01,
    at=0.9,
    real={"seeds": 5, "budget": {"tokens": 20_000}, "rates": (3e-5, 1e-4, 3e-4)},
    differs="a language model instead of CLIP; the uniform scaling is the dial's own interpolation",
)
