"""Replayed text beside the made rows keeps the language that made rows alone take away."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers.genbert import pages, skill

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

TOKENS = 150_000

CLAIM = Claim(
    paper="genbert",
    says=(
        "Taught numerical rows of which a third of the tokens are replayed text, a model keeps a lower loss on other "
        "text than one that is taught the made rows alone, for as many tokens."
    ),
    task="domain",
    method=Arm(name="replayed", methods=["full"]),
    baselines=[Arm(name="alone", methods=["full"])],
    metric="measured",
    direction="lower",
    smallest=0.05,
    seeds=5,
    strengths=(1.0,),
    rates=(),
    scales=("nano",),
    differs="text that is gone on with in the place of masked words; a base of 3.4M parameters; loss in nats a token "
    "of other pages of the kind that is replayed",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Loss of other general text after both ways."""
    files, found = pages(), {}
    for arm, share in (("replayed", 1 / 3), ("alone", 0.0)):
        stage = skill(seed, TOKENS, share)
        data = {
            "train": stage["data"]["train"],
            "eval": [{"path": files["other"], "name": "eval"}],
            "validation": None,
            "chat": False,
        }
        found[arm] = float(run.trial(arm, seed, data=data, stages=[stage]).tuned.target)
    return found
