"""Pre-trained as a sparse plus low-rank model, a model is nearly as good as one of full rank."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import rows
from tunewright.claims.papers import _fresh

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

TOKENS, RANK = 500_000, 16
PARTS: dict[str, Any] = {"rank": RANK, "alpha": 2.0 * RANK, "replace": True}

CLAIM = Claim(
    paper="sltrain",
    says="Pre-trained from nothing with every block's matrices of low rank plus 3 % of values at random places, a "
    "model's loss is at most 0.05 nats a token above that of full matrices.",
    task="domain",
    method=Arm(name="sltrain", methods=[{"sltrain": PARTS}]),
    baselines=[Arm(name="full", methods=["full"])],
    metric="measured",
    direction="lower",
    smallest=-0.05,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    differs="a model of 0.2M parameters and half a million tokens, rank a quarter of the width as in the paper's "
    "smaller models; one rate each (3e-3), as the authors have it, not tuned; German law is what it learns",
)


def loss_of(run: ClaimRun, arm: str, seed: int, method: Any) -> float:
    """Loss of new sentences of law after pre-training on others, nats a token."""
    law = [{"path": rows.domain()["train"], "name": "law"}]
    record = run.trial(
        arm,
        seed,
        model=_fresh.model(seed),
        data={"train": law},
        stages=[_fresh.stage("pretraining", law, TOKENS, 3e-3, methods=[method])],
    )
    return float(record.tuned.target)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Loss of both."""
    return {
        "sltrain": loss_of(run, "sltrain", seed, {"sltrain": PARTS}),
        "full": loss_of(run, "full", seed, "full"),
    }
