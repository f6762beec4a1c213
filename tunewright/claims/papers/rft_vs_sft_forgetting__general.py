"""Over seven tasks in sequence reinforcement with a checkable reward leaves more of general text than supervision."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers import _seven_tasks as seven

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CLAIM = Claim(
    paper="rft-vs-sft-forgetting",
    says="After seven tasks in sequence the loss of general text is lower by reinforcement with a checkable reward "
    "(GRPO, no penalty towards the start) than by supervision on the same rows (the paper: MMMU and MMLU-Pro kept or "
    "better by reinforcement, much lower by supervision).",
    task="arithmetic",
    method=Arm(name="rft", methods=seven.GRPO, extra=seven.REINFORCED),
    baselines=[Arm(name="sft", methods=["full"], extra=seven.SUPERVISED)],
    metric="measured",
    direction="lower",
    smallest=0.05,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    differs="as in the claim rft-vs-sft-forgetting, with its runs; loss a token of general text instead of benchmarks, "
    "and a start that has itself lost most of that text",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Loss of the kept text after the last task, in nats a token."""
    model = seven.generalist(run, "sft", seed)
    return {arm: seven.sequence(run, arm, seed, model).tuned.kept["general"] for arm in ("rft", "sft")}
