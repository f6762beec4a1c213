"""Read again and again, a few texts are over-fitted less by a student that begins anew and follows the first model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

TEXTS, TOKENS, METHOD = 60, 24_000, "self-distilled-pretraining"
CLAIM = Claim(
    paper=METHOD,
    says="Further pre-trained on few texts for many passes, a student held near the states of a model that was further "
    "pre-trained plainly has the lower loss on new texts of their kind.",
    task="domain",
    method=Arm(name="student", methods=["full"], uses=[METHOD]),
    baselines=[Arm(name="plain", methods=["full"])],
    metric="measured",
    direction="lower",
    smallest=0.02,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    differs="a causal model of text and its own loss; the accuracy after fine-tuning, which the paper reports, is not "
    "tested; the student's teacher is the other arm, so that the student costs twice",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Loss of held-out texts, in nats per token, after one stage of plain training and after a student's stage."""
    path = run.task["data"]["train"][0]["path"]
    data = {"train": [{"path": path, "name": "train", "limit": TEXTS}]}

    def stage(name: str, *more: Any) -> dict[str, Any]:
        return {"name": name, "start": "base", "methods": ["full", *more], "budget": {"tokens": TOKENS}}

    student = [stage("teacher", METHOD), stage("student", METHOD)]
    arms = {"student": student, "plain": [stage("plain")]}
    return {arm: run.trial(arm, seed, data=data, stages=stages).tuned.target for arm, stages in arms.items()}
