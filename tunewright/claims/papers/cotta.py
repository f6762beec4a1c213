"""Where the corruption goes on changing, a slow teacher and restored weights do better than entropy alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers._streams import TWO_ROUNDS, figures

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CLAIM = Claim(
    paper="cotta",
    says="On a stream whose corruption goes on changing, never set back, CoTTA answers more rows rightly than Tent and "
    "than the model without adaptation.",
    task="digits",
    method=Arm(name="cotta", methods=["full"], uses=["tent", "cotta"]),
    baselines=[Arm(name="tent", methods=["full"]), Arm(name="without", methods=["full"])],
    metric="measured",
    direction="higher",
    smallest=0.01,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    extra=TWO_ROUNDS,
    real={"seeds": 3},
    differs="digits under four corruptions, twice over, in batches of 50 instead of fifteen in batches of 200; views "
    "are not mirrored, since digits are not; one order of the corruptions",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Online accuracy over the whole stream of CoTTA and of Tent, and the accuracy without adaptation."""
    return figures(run, seed, {"cotta": "cotta", "tent": "tent"})
