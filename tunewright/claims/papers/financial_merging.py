"""Half of a tuned model and half of its base gives back more of what was lost than it gives up of what was learned."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunewright.claims.claim import Arm, Claim
from tunewright.errors import ClaimError

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CLAIM = Claim(
    paper="financial-merging",
    says="Merging a model tuned on one task with its base restores what tuning took away, and keeps the task.",
    task="intents",
    method=Arm(name="merged", methods=["full"]),
    metric="measured",
    direction="higher",
    smallest=0.1,
    strengths=(0.5, 1.0),
    real={"seeds": 5, "budget": {"tokens": 20_000}, "rates": (3e-5, 1e-4, 3e-4)},
    differs=(
        "bank messages; what was lost is the loss on general text instead of accuracy on unseen financial "
        "tasks; the plain mean of base and tuned"
    ),
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Share of the loss won back, less the share of the gain given up: 0 for the tuned model and for the base alike."""
    record = run.trial("merged", seed)
    half, whole = (next(r for r in record.strengths if r.strength == s) for s in (0.5, 1.0))
    general = next(iter(record.base.kept))
    lost, gained = whole.kept[general] - record.base.kept[general], whole.target - record.base.target
    if lost <= 0 or gained <= 0:
        raise ClaimError("tuning lost nothing or gained nothing, so there are no shares", where=record.key)
    back, kept = (whole.kept[general] - half.kept[general]) / lost, (half.target - record.base.target) / gained
    return {"merged": back - (1 - kept), "won back": back, "gain kept": kept}
