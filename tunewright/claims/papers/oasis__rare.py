"""The balanced contrast with its borders makes a model right more often on the classes that had few rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers import _open_world

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CLAIM = Claim(
    paper="oasis",
    says="Trained on a long tail of classes, a model with the balanced contrast of borderline rows beside the "
    "cross-entropy is right more often on new rows of the four rarest classes than one with the cross-entropy alone.",
    task="digits",
    method=Arm(name="contrast", methods=["full", "borderline-contrast"], uses=["borderline-contrast"]),
    baselines=[Arm(name="plain", methods=["full"])],
    metric="measured",
    direction="higher",
    smallest=0.02,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    extra={"budget": {"epochs": _open_world.PASSES}, "keep": []},
    scales=("nano",),
    differs="as in the claim oasis, without a stream; the contrast without its borders is run beside it and not judged",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Accuracy on new rows of the rarest classes."""
    rare = _open_world.data(seed, "rare")
    even = ["full", {"borderline-contrast": {"refine": 0.0}}]
    stage = {"name": "main", "methods": even, "budget": {"epochs": _open_world.PASSES}}
    return {
        "contrast": float(run.trial("contrast", seed, data=rare).tuned.target),
        "plain": float(run.trial("plain", seed, data=rare).tuned.target),
        "without borders": float(run.trial("contrast", seed, data=rare, stages=[stage]).tuned.target),
    }
