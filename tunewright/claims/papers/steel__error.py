"""What a few rows pick among draws from other tasks' adapters errs hardly more than what they teach by gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers._family import LORA, NEW, TAUGHT, errors_of, report_of
from tunewright.claims.papers.steel import PICK, STEEL

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CLAIM = Claim(
    paper="steel",
    says="On new tasks, what 64 rows pick of 100 draws errs at most five points more often than the same adapter "
    "trained on these rows by gradients.",
    task="topics",
    method=Arm(name="steel", methods=[STEEL]),
    baselines=[Arm(name="lora", methods=[LORA])],
    metric="measured",
    direction="lower",
    smallest=-0.05,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    differs="tasks, base and rows of the claim steel; the paper's tables show 2 to 11 points on pictures; LoRA takes 6 "
    "epochs at 3e-3, as the upstream tasks do, which is not tuned",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Mean share of wrong answers on new tasks, each on its own rows."""
    found = {"steel": report_of(run, "steel", seed, **PICK), "lora": report_of(run, "lora", seed, **TAUGHT)}
    return {arm: sum(errors_of(report)) / NEW for arm, report in found.items()}
