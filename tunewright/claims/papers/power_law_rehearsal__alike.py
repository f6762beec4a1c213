"""Rehearsing earlier tasks by a power law does no worse at the end of a sequence than rehearsing all of them alike."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers.power_law_rehearsal import KEPT

CLAIM = Claim(
    paper="power-law-rehearsal",
    says=(
        "With as many rehearsed rows a step from the same buffer, tasks that come back by a power of their age leave "
        "all classes known no worse at the end than tasks that come back alike, whatever their age."
    ),
    task="classes",
    method=Arm(name="power-law", methods=["full", {"power-law-rehearsal": KEPT}]),
    baselines=[Arm(name="alike", methods=["full", {"power-law-rehearsal": {**KEPT, "exponent": 0.0}}])],
    metric="target",
    direction="higher",
    smallest=-0.02,
    seeds=5,
    strengths=(1.0,),
    rates=(1e-4, 3e-4, 1e-3),
    differs="new classes in short texts instead of permuted digits, five tasks; the amount that is rehearsed is not "
    "varied",
)
