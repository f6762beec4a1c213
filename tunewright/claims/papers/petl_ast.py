"""Adapters tune a transformer of spectrograms better than other ways that train few numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers import _sounds as lab

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

FEW = (1e-3, 3e-3)
RATES = {"adapters": FEW, "lora": FEW, "bitfit": (3e-3, 1e-2)}
ADAPTERS = Arm(name="adapters", methods=[{"bottleneck-adapters": {"config": "houlsby", "reduction_factor": 16}}])
CLAIM = Claim(
    paper="petl-ast",
    says="On a new task of sounds, adapters behind attention and feed-forward part are right at least a point more "
    "often than low-rank changes of about as many numbers and than biases.",
    method=ADAPTERS,
    baselines=[
        Arm(name="lora", methods=[{"lora": {"rank": 8, "target_modules": ["q_proj", "v_proj"]}}]),
        Arm(name="bitfit", methods=["bitfit"]),
    ],
    smallest=0.01,
    differs=f"{lab.DIFFERS}; no prompts and no prefixes",
    **lab.SHARED,
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Accuracy on 300 clips."""
    return lab.accuracies(run, seed, CLAIM, RATES)
