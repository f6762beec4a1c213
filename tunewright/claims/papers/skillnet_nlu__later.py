"""A task that comes later uses known skills and a new one, and leaves the earlier tasks as they were."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers.skillnet_nlu import KINDS, files

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

FIRST, LATER = list(KINDS)[:2], list(KINDS)[2]

CLAIM = Claim(
    paper="skillnet-nlu",
    says="After a third kind of instructions was learnt by skills of its own, one of which starts at a known one, the "
    "loss on the first two kinds is lower by at least 0.05 nats a token than where a dense model learnt it after them.",
    task="induction",
    method=Arm(
        name="skillnet-nlu",
        methods=[{"skillnet-nlu": {"skills": {LATER: ["words", "numbers"]}, "shared": False}}],
    ),
    baselines=[Arm(name="dense", methods=["full"])],
    metric="measured",
    direction="lower",
    smallest=0.05,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    extra={"evaluation": {"metric": "loss", "rows": 200}},
    scales=("nano",),
    differs="what earlier tasks lose, where the paper reports the new tasks' figures; the rest of the model is held "
    "still while the third kind is learnt",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Loss on new rows of the first two kinds after the third, nats a token."""
    found = {}
    for arm in run.claim.arms:
        skilled = arm is run.claim.method
        known: list[Any] = [{"skillnet-nlu": {"skills": {k: KINDS[k] for k in FIRST}}}] if skilled else ["full"]
        first: dict[str, Any] = {"name": "first", "methods": known, "data": {"train": files(FIRST, "train")}}
        later: dict[str, Any] = {"name": "later", "start": "stages.first", "methods": arm.methods}
        later |= {"data": {"train": files([LATER], "train")}, "carry": "frozen" if skilled else "fold"}
        more: dict[str, Any] = {"budget": {"tokens": 12_000}, "train": {"learning_rate": 1e-3}}
        data = {"train": files(FIRST, "train"), "eval": files(FIRST, "eval"), "validation": None}
        record = run.trial(arm.name, seed, data=data, stages=[{**s, **more} for s in (first, later)])
        found[arm.name] = float(record.tuned.target)
    return found
