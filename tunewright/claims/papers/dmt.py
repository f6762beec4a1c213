"""A little of a skill's rows among the general ones that follow keeps the skill."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import rows
from tunewright.claims.papers import _instructions

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

SKILL, GENERAL, AGAIN = 60_000, 40_000, 0.02
"""Tokens of each stage, and the share of the second's that the first one's rows have."""

CLAIM = Claim(
    paper="dmt",
    says="A skill learnt first, and then general instructions of which 2 % of the tokens are the skill's rows, leaves "
    "a lower loss on the skill's new problems than general instructions alone do, for as many tokens.",
    task="arithmetic",
    method=Arm(name="dmt", methods=["full"]),
    baselines=[Arm(name="sequential", methods=["full"])],
    metric="measured",
    direction="lower",
    smallest=0.05,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    extra={"measurement": {"metric": "loss"}},
    scales=("nano",),
    differs="one procedural skill in the place of mathematics and code, short instructions instead of conversations, a "
    "base of 3.4M parameters instead of 7 to 33 billion; judged by the loss of right answers; a share of the tokens "
    "instead of 1/256 of the rows; all at once (as many tokens in one stage) is run beside it and not judged",
)


def loss_of(run: ClaimRun, arm: str, seed: int, judged: str) -> float:
    """Loss of the answers in a file, nats a token, after an arm's stages."""
    skill = {"path": rows.arithmetic()["train"], "name": "skill"}
    general = {"path": _instructions.general()["train"], "name": "general"}

    def stage(name: str, sources: list[Any], tokens: int, **more: Any) -> dict[str, Any]:
        return {"name": name, "data": {"train": sources, **more}, "methods": ["full"], "budget": {"tokens": tokens}}

    first = stage("skills", [skill], SKILL)
    share = SKILL / (SKILL + GENERAL)
    stages = {
        "dmt": [first, stage("general", [general], GENERAL, replay={"stages.skills": AGAIN})],
        "sequential": [first, stage("general", [general], GENERAL)],
        "at once": [stage("mixed", [{**skill, "weight": share}, {**general, "weight": 1 - share}], SKILL + GENERAL)],
    }
    data = {"eval": [{"path": judged, "name": "eval"}], "validation": None}
    named = arm if arm in ("dmt", "sequential") else "sequential"
    return float(run.trial(named, seed, data=data, stages=stages[arm]).tuned.target)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Loss of right answers to the skill's new problems."""
    return {arm: loss_of(run, arm, seed, rows.arithmetic()["eval"]) for arm in ("dmt", "sequential", "at once")}
