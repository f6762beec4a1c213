"""Several contexts, held to descriptions and apart, tell new classes better than one that is held to plain words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers import _two_towers as lab

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

SEVERAL = Arm(name="msgcoop", methods=[{"msgcoop": {"descriptions": lab.DESCRIBED}}])

CLAIM = Claim(
    paper="msgcoop",
    says="After 16 rows each of half the classes, four contexts held to descriptions and apart find the right one of "
    "thirty other classes at least one point more often than one context held to the usual words, which is KgCoOp.",
    task="topics",
    method=SEVERAL,
    baselines=[Arm(name="kgcoop", methods=[{"msgcoop": {"contexts": 1, "diversity": 0.0}}])],
    metric="measured",
    direction="higher",
    smallest=0.01,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    differs="new classes alone, where the paper reports the harmonic mean with those that were learnt (1.1 points over "
    "11 data sets); two small towers that know coloured digits upright, which are turned; two descriptions a class, "
    "written by rule; one rate",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Share of the pictures of new classes whose text comes first among thirty."""
    return {arm.name: float(lab.few(run, arm.name, seed).tuned.target) for arm in run.claim.arms}
