"""A small model that is tuned on named sub-tasks passes a larger one that is tuned on general instructions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import rows
from tunewright.claims.papers import _instructions

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CLAIM = Claim(
    paper="anytasktune",
    says="A base that is tuned on rows of eight named sub-tasks answers more of their new rows right than a base of "
    "twice its size that is tuned on general instructions for as many tokens.",
    task="induction",
    method=Arm(name="sub-tasks", methods=["full"]),
    baselines=[Arm(name="larger", methods=["full"])],
    metric="measured",
    direction="higher",
    smallest=0.05,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    differs="bases of 3.4M and 7.1M parameters, and eight kinds of short instructions in the place of sub-tasks of "
    "law, health and finance; general instructions are people's; exact match instead of judged answers",
)


def exact(run: ClaimRun, arm: str, seed: int, model: str = "nano", general: bool = False) -> float:
    """Exact match on new rows of the sub-tasks, after these or general instructions were learnt."""
    parts = rows.induction()
    learnt = _instructions.general()["train"] if general else parts["train"]
    data = {"train": [{"path": learnt, "name": "train"}], "validation": None}
    return float(run.trial(arm, seed, model=model, data=data).tuned.target)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Exact match of the smaller model and of the larger."""
    larger = exact(run, "larger", seed, model="nano-large", general=True)
    return {"sub-tasks": exact(run, "sub-tasks", seed), "larger": larger}
