"""Over seven tasks in sequence reinforcement with a checkable reward forgets less than supervision."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers import _seven_tasks as seven

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CLAIM = Claim(
    paper="rft-vs-sft-forgetting",
    says="A model that knows some of seven tasks and goes on with one after the other forgets less of the earlier ones "
    "by reinforcement with a checkable reward (GRPO, no penalty towards the start) than by supervision on the same "
    "rows (the paper: seven multimodal tasks, Qwen2.5-VL-7B, where supervision forgets and reinforcement hardly does).",
    task="arithmetic",
    method=Arm(name="rft", methods=seven.GRPO, extra=seven.REINFORCED),
    baselines=[Arm(name="sft", methods=["full"], extra=seven.SUPERVISED)],
    metric="measured",
    direction="lower",
    smallest=0.02,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    differs="functions of lists of digits; a base of 3.4M parameters that reads all seven together first; answers "
    "without a chain of thought, so that the reward is the answer alone; the same rows and not the same computation "
    "(six answers are drawn of each); one fixed rate for both, none is chosen",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Forgetting after the last task, in shares of exact matches: the mean over the first six."""
    model = seven.generalist(run, "sft", seed)
    return {arm: seven.sequence(run, arm, seed, model).sequence["forgetting"] for arm in ("rft", "sft")}
