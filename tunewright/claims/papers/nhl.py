"""A first layer that learns by a Hebbian rule under feedback answers a shifted stream better than Tent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers._each_anew import EACH_ANEW
from tunewright.claims.papers._streams import figures

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CLAIM = Claim(
    paper="nhl",
    says="On corrupted pictures, each corruption begun anew, the soft Hebbian rule with a modulator answers more rows "
    "rightly than Tent and than the model without adaptation (the paper: CIFAR-10-C, CIFAR-100-C, ImageNet-C, digits).",
    task="digits",
    method=Arm(name="nhl", methods=["full"], uses=["nhl", "tent"]),
    baselines=[Arm(name="tent", methods=["full"]), Arm(name="without", methods=["full"])],
    metric="measured",
    direction="higher",
    smallest=0.01,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    extra=EACH_ANEW,
    real={"seeds": 3},
    differs="digits under four corruptions in batches of 50 instead of fifteen in batches of 128 to 200; at scale nano "
    "a ViT, whose patch embedding is the first layer and whose norms have no statistics of the batch; rates are the "
    "methods' defaults, none is chosen",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Online accuracy over the whole stream of NHL and of Tent, and the accuracy without adaptation."""
    return figures(run, seed, {"nhl": "nhl", "tent": "tent"})
