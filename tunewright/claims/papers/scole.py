"""Plain SGD over many tasks of two digits that come again knows more of all digits at the end than after its first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim
from tunewright.errors import ClaimError

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

STREAM: dict[str, Any] = {"by": "label", "recurring": {"tasks": 50, "values": 2, "share": 0.1}}
SGD = {"optimizer": "sgd", "momentum": 0.0, "head": "random"}

CLAIM = Claim(
    paper="scole",
    says=(
        "Over a long sequence of tasks of two classes that come again, trained with plain SGD and nothing against "
        "forgetting, accuracy on all classes rises: it ends at least 0.1 above what it was after the first task."
    ),
    task="digits",
    method=Arm(name="sgd", methods=["full"]),
    metric="target",
    direction="higher",
    smallest=0.1,
    seeds=5,
    budget={"epochs": 1},
    strengths=(1.0,),
    rates=(3e-3, 1e-2, 3e-2),
    extra={"tasks": STREAM, "train": SGD, "keep": []},
    scales=("nano",),
    differs="a base that was pre-trained on other digits, 50 tasks of a tenth of the rows of two digits each; the "
    "paper has up to a thousand tasks and networks that begin at random",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """What the run accumulated: accuracy over all digits at the end less after the first task."""
    record = run.trial(run.claim.method.name, seed)
    if "accumulation" not in record.sequence:
        raise ClaimError("the run was no sequence of tasks that come again", where=record.key)
    return {run.claim.method.name: record.sequence["accumulation"]}
