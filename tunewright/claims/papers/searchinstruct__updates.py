"""Rows made of new facts renew what a model was taught, better than reading the new facts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import rows
from tunewright.claims.papers.instruction_pre_training import asked_of
from tunewright.claims.papers.searchinstruct import TOKENS, documents, made, pair

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CLAIM = Claim(
    paper="searchinstruct",
    says=(
        "A model that was taught a domain's facts and is tuned on rows made of documents with new ones gives the new "
        "answers a lower loss than one that reads the new documents for as many tokens, and than one left as it was."
    ),
    task="domain",
    method=Arm(name="made", methods=["full"], uses=["searchinstruct"]),
    baselines=[Arm(name="documents", methods=["full"]), Arm(name="old", methods=["full"])],
    metric="measured",
    direction="lower",
    smallest=0.1,
    seeds=5,
    strengths=(1.0,),
    rates=(),
    scales=("nano",),
    differs="all three facts on each of 60 made-up people are new, and a writer by rule; loss in nats a token of the "
    "new answer; what else the model knew is not measured",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Loss of the new answers after each way."""
    new = documents(seed, "second")
    parts = {
        "taught": made(seed, documents(seed)),
        "made": made(seed, new),
        "documents": [{"text": t} for t in new],
        "eval": [pair(*one) for text in new for one in asked_of(text)],
    }
    files = rows.written(f"renewed-{seed}", parts)

    def stage(name: str, file: str, start: str | None = None) -> dict[str, Any]:
        train = [{"path": files[file], "name": "train"}]
        about = {"name": name, "data": {"train": train}, "methods": ["full"], "budget": {"tokens": TOKENS}}
        return {**about, "start": start} if start is not None else about

    taught = stage("taught", "taught")
    ways = {arm: [taught, stage(arm, arm, "stages.taught")] for arm in ("made", "documents")}
    ways["old"] = [taught]
    data = {
        "train": [{"path": files["taught"], "name": "train"}],
        "eval": [{"path": files["eval"], "name": "eval"}],
        "validation": None,
        "chat": False,
    }
    return {
        arm: float(run.trial(arm, seed, data=data, stages=stages, measurement={"metric": "loss"}).tuned.target)
        for arm, stages in ways.items()
    }
