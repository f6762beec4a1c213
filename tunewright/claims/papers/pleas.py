"""Least squares, layer by layer, merge two fine-tunings better than averaging does, at the same size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.merging import FACTORS, Bench

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CLAIM = Claim(
    paper="pleas",
    says=(
        "Matching units and refitting each layer to both models' features gives a better model of both tasks than "
        "merges without data, at the same size."
    ),
    task="digits",
    method=Arm(name="pleas", methods=["full"], uses=["pleas"]),
    baselines=[Arm(name="mean", methods=["full"], uses=["linear"]), Arm(name="ties", methods=["full"], uses=["ties"])],
    metric="measured",
    direction="higher",
    smallest=0.02,
    scales=("nano",),
    differs=(
        "two changes of digits under one head on a small ViT, of one base; no width is added; ridge (pleas) and "
        "factor (TIES) chosen on validation rows"
    ),
)

PAIR = ("turned", "inverted")


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Mean accuracy over both tasks; beside it what matching alone gives."""
    bench = Bench(run, seed, "pleas", PAIR)
    rows = bench.rows("train", 200)
    return {
        "pleas": bench.best("pleas", [{"ridge": r, "samples": len(rows)} for r in (1e-4, 1e-3, 1e-2, 1e-1)], rows=rows)[
            0
        ],
        "mean": bench.mean(bench.merge("linear")),
        "ties": bench.best("ties", [{"density": 0.2, "lambda": f} for f in FACTORS])[0],
        "matched only": bench.mean(bench.merge("pleas", refit=False)),
        "each alone": sum(bench.alone.values()) / len(bench.tasks),
    }
