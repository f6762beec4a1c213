"""A model that becomes surer of each batch of a shifted stream is right more often on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers._streams import TWO_ROUNDS, figures

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CLAIM = Claim(
    paper="tent",
    says="Entropy minimisation over the norms' scale and shift, batch by batch and without labels, raises the accuracy "
    "on corrupted pictures above that of the model as it was trained.",
    task="digits",
    method=Arm(name="tent", methods=["full"], uses=["tent", "cotta"]),
    baselines=[Arm(name="without", methods=["full"])],
    metric="measured",
    direction="higher",
    smallest=0.01,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    extra=TWO_ROUNDS,
    real={"seeds": 3},
    differs="digits under four corruptions, twice over, in batches of 50; at scale nano a ViT, whose norms have no "
    "statistics of the batch: the gain that batch norm's statistics alone give is then not in it",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Online accuracy over the whole stream, and that of the same model on the same rows without adaptation."""
    return figures(run, seed, {"tent": "tent"})
