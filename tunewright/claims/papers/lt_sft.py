"""A twelfth of the entries, found by a search and trained from the start again, does the task as well as all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CLAIM = Claim(
    paper="lt-sft",
    says="Training only the 8 % of entries that a full tuning moved most, from the base again, is at most two points "
    "behind full tuning on the task. (Transfer between languages by sums of changes is not tested.)",
    task="intents",
    method=Arm(name="lt-sft", methods=["lt-sft"], uses=["lt-sft"]),
    baselines=[Arm(name="full", methods=["full"])],
    metric="measured",
    direction="higher",
    smallest=-0.02,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    differs="one language; the sparse stage has the tokens of the full one, and the search as many before it; one rate "
    "for both",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Exact match after the sparse stage, and after one stage of full tuning."""

    def stage(name: str, method: str) -> dict[str, Any]:
        return {"name": name, "start": "base", "methods": [method], "budget": run.task["budget"]}

    arms = {"lt-sft": [stage("search", "lt-sft"), stage("sparse", "lt-sft")], "full": [stage("full", "full")]}
    return {arm: run.trial(arm, seed, stages=stages).tuned.target for arm, stages in arms.items()}
