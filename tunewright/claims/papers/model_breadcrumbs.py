"""Breadcrumbs (neither the largest nor the smallest changes) merge better than whole changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.merging import FACTORS, Bench

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CLAIM = Claim(
    paper="model-breadcrumbs",
    says=(
        "Masking each layer's largest and smallest changes before adding them gives a better model of several "
        "tasks than adding them whole."
    ),
    task="digits",
    method=Arm(name="breadcrumbs", methods=["full"], uses=["model-breadcrumbs"]),
    baselines=[Arm(name="task-arithmetic", methods=["full"], uses=["task-arithmetic"])],
    metric="measured",
    direction="higher",
    smallest=0.01,
    scales=("nano",),
    differs=(
        "four changes of digits under one head on a small ViT; each arm's factor chosen among seven on validation rows"
    ),
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Mean accuracy over the tasks of each merge."""
    bench = Bench(run, seed, "breadcrumbs")
    return {
        "breadcrumbs": bench.best("model-breadcrumbs", [{"lambda": f} for f in FACTORS])[0],
        "task-arithmetic": bench.best("task-arithmetic", [{"lambda": f} for f in FACTORS])[0],
        "each alone": sum(bench.alone.values()) / len(bench.tasks),
    }
