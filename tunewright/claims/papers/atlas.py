"""A coefficient for each tensor and task merges better than one factor for all, both learned from the same labelled
rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.merging import FACTORS, Bench

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CLAIM = Claim(
    paper="atlas",
    says=(
        "Task vectors scaled tensor by tensor with learned coefficients interfere less when added than with one "
        "factor for all tensors."
    ),
    task="digits",
    method=Arm(name="atlas", methods=["full"], uses=["atlas"]),
    baselines=[Arm(name="task-arithmetic", methods=["full"], uses=["task-arithmetic"])],
    metric="measured",
    direction="higher",
    smallest=0.02,
    scales=("nano",),
    differs=(
        "four changes of digits under one head on a small ViT; coefficients learned from, and the factor chosen "
        "on, the same 1,200 validation rows"
    ),
)

RATES = (3e-3, 1e-2, 3e-2, 1e-1)
"""Learning rates of the coefficients, chosen on the loss of the very rows that they are learned from: no row more
than the baseline has.
"""


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Mean accuracy over the tasks."""
    bench = Bench(run, seed, "atlas")
    rows = bench.rows()
    return {
        "atlas": bench.best(
            "atlas", [{"learning_rate": r, "epochs": 5, "samples": len(rows), "start": 0.3} for r in RATES], rows=rows
        )[0],
        "task-arithmetic": bench.best("task-arithmetic", [{"lambda": f} for f in FACTORS])[0],
        "each alone": sum(bench.alone.values()) / len(bench.tasks),
    }
