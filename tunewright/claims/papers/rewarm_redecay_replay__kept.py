"""Replaying a quarter of old data keeps more of it than none, for as many tokens."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim


def _arm(name: str, share: float) -> Arm:
    return Arm(name=name, methods=["full", {"rewarm-redecay-replay": {"warmup": 0.05, "replay": share}}])


CLAIM = Claim(
    paper="rewarm-redecay-replay",
    says=(
        "Where the new data are far from the old ones, replaying a quarter of old data forgets much less, as many "
        "tokens in all (the second part)."
    ),
    task="domain-replay",
    method=_arm("replay", 0.25),
    baselines=[_arm("none", 0.0)],
    metric="kept",
    direction="lower",
    smallest=0.05,
    strengths=(1.0,),
    real={"seeds": 5},
    differs="fine-tuning lengths; what is replayed is other text than what is kept, of two of the base's sources",
)
