"""A few rows certify what was picked among draws from other tasks' adapters, and nothing that gradients would learn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers._family import NEW, PICKED, UPSTREAM, errors_of, report_of
from tunewright.pieces import certificates

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

GUESSING = 0.5
STEEL = {"steel": {"upstream": [f"stages.t{i}" for i in range(UPSTREAM)], "samples": 100}}
PICK: dict[str, Any] = {"budget": {"epochs": 1}, "train": {"batch_tokens": 4096}}

CLAIM = Claim(
    paper="steel",
    says="In nearly all new tasks the error of what 64 rows pick of 100 draws is certified, with 95 % confidence, to "
    "be less than that of guessing, and truly is less than the certificate; what gradients would learn over as many "
    "numbers as one adapter has is certified in none, were it right on all 64 rows.",
    task="topics",
    method=Arm(name="steel", methods=[STEEL]),
    baselines=[Arm(name="gradients", methods=["lora"])],
    metric="measured",
    direction="higher",
    smallest=0.9,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    differs="18 upstream adapters of rank one on an encoder of four blocks, tasks of two classes drawn from six, four "
    "new ones a seed, and 100 draws, where the paper has CLIP, language models, up to 10,000 upstream tasks and 20,000 "
    "draws; true errors are of 100 rows",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Share of new tasks whose certificate is below guessing and no less than the true error; of gradients, whose best
    possible certificate is below guessing.
    """
    report = report_of(run, "steel", seed, **PICK)
    certified = by_gradients = 0
    for i, error in enumerate(errors_of(report)):
        told = report["probes"][f"n{i}: steel"]["values"]
        certified += error <= told["certified error (binomial)"] < GUESSING
        numbers = told["numbers of an upstream change"]
        by_gradients += certificates.continuous(PICKED, numbers, 0.05) < GUESSING
    return {"steel": certified / NEW, "gradients": by_gradients / NEW}
