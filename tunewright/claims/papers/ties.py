"""TIES merges several fine-tunings better than adding their changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.merging import FACTORS, Bench

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CLAIM = Claim(
    paper="ties",
    says=(
        "Trimming changes and electing signs before averaging interferes less than adding changes: one model does "
        "better on all the tasks together."
    ),
    task="digits",
    method=Arm(name="ties", methods=["full"], uses=["ties"]),
    baselines=[
        Arm(name="task-arithmetic", methods=["full"], uses=["task-arithmetic"]),
        Arm(name="mean", methods=["full"], uses=["linear"]),
    ],
    metric="measured",
    direction="higher",
    smallest=0.01,
    scales=("nano",),
    differs=(
        "four changes of digits under one head on a small ViT; trimmed tensor by tensor, as in mergekit and PEFT, "
        "not over the whole model as in the paper (over: model); each arm's factor chosen among seven on validation "
        "rows (the mean has none)"
    ),
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Mean accuracy over the tasks of each merge; beside it the base's, and that of each fine-tuning on its own
    task.
    """
    bench = Bench(run, seed, "ties")
    return {
        "ties": bench.best("ties", [{"density": 0.2, "lambda": f} for f in FACTORS])[0],
        "task-arithmetic": bench.best("task-arithmetic", [{"lambda": f} for f in FACTORS])[0],
        "mean": bench.mean(bench.merge("linear")),
        "base": sum(bench.at_base.values()) / len(bench.tasks),
        "each alone": sum(bench.alone.values()) / len(bench.tasks),
    }
