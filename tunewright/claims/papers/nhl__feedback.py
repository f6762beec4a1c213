"""The Hebbian rule does better with feedback from the answers than alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers._each_anew import EACH_ANEW
from tunewright.claims.papers._streams import figures

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CLAIM = Claim(
    paper="nhl",
    says="A modulator behind the first layer, tuned by the entropy of the answers, raises the accuracy on corrupted "
    "pictures above that of the feed-forward Hebbian rule alone (the paper says: significantly).",
    task="digits",
    method=Arm(name="nhl", methods=["full"], uses=["nhl", "tent"]),
    baselines=[Arm(name="alone", methods=["full"])],
    metric="measured",
    direction="higher",
    smallest=0.01,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    extra=EACH_ANEW,
    real={"seeds": 3},
    differs="as in the claim nhl; its runs",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Online accuracy over the whole stream with the modulator and without it."""
    return figures(run, seed, {"nhl": "nhl", "alone": "nhl-2"})
