"""On one frozen backbone, class means of random projections forget less than pools of prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunewright.claims.claim import Arm, Claim

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CLAIM = Claim(
    paper="pilot",
    says="Ten classes come in five tasks, in another order with each seed: on the same pre-trained backbone RanPAC is "
    "right about at least five points more of all classes' pictures after the last task than L2P and CODA-Prompt are.",
    task="digits",
    method=Arm(name="ranpac", methods=["ranpac"]),
    baselines=[Arm(name="l2p", methods=["l2p"]), Arm(name="coda-prompt", methods=["coda-prompt"])],
    metric="measured",
    direction="higher",
    smallest=0.05,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    budget={"epochs": 4},
    extra={"keep": [], "train": {"learning_rate": None}, "evaluation": {"rows": 400}},
    scales=("nano",),
    differs="the toolbox states no figure of its own: this is the order of three of its methods; turned digits and a "
    "ViT of 3.4M parameters instead of ViT-B/16 and larger sets, the methods' own rates, four passes",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Accuracy on all classes after the last task; beside it the untouched base's."""
    found = dict[str, float]()
    tasks = {"by": "label", "count": 5, "order_seed": seed, "carry": "frozen"}
    for arm in run.claim.arms:
        record = run.trial(arm.name, seed, tasks=tasks, data={"validation": None})
        found |= {arm.name: float(record.tuned.target), "base": float(record.base.target)}
    return found
