"""Weights averaged with the base do better on shifted data when fine-tuning was less sure of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers import _marks

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CLAIM = Claim(
    paper="bang",
    says=(
        "Interpolation with the pre-trained weights does better on shifted data after fine-tuning with label "
        "smoothing than after plain fine-tuning."
    ),
    task="digits",
    method=Arm(name="bang", methods=["full", {"bang": {"smoothing": 0.1}}]),
    baselines=[Arm(name="wise-ft", methods=["full"])],
    metric="measured",
    direction="higher",
    smallest=0.01,
    strengths=(0.5, 1.0),
    scales=("nano",),
    differs=(
        "digits whose mark gives the class away in 90 % of training pictures and in none that are judged; a "
        "small ViT that knows plain digits; half way"
    ),
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Accuracy on shifted pictures half way between base and tuned; beside it both ends."""
    data: dict[str, Any] = _marks.data()
    accuracies = {}
    for arm in ("bang", "wise-ft"):
        record = run.trial(arm, seed, data=data, keep=[])
        accuracies[arm] = next(r.target for r in record.strengths if r.strength == 0.5)
        accuracies[f"{arm}, whole change"] = record.tuned.target
    return {**accuracies, "base": record.base.target}
