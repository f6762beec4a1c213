"""Lower blocks hardly change in how they see rows when an encoder is tuned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from tunewright.claims.claim import Arm, Claim

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CLAIM = Claim(
    paper="telly",
    says="After tuning, how alike rows are to one another is nearly what it was in the lower half of the blocks, and "
    "changes most at the top: their similarity to the base's is higher below by 0.2 at least.",
    task="topics",
    method=Arm(name="lower", methods=["telly"]),
    baselines=[Arm(name="top", methods=["telly"])],
    metric="measured",
    direction="higher",
    smallest=0.2,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    extra={"train": {"learning_rate": 3e-4}, "measurement": {"rows": 16, "drift_sequences": 4}},
    scales=("real",),
    differs="MiniLM-L6 on queries of ten domains instead of UniXcoder on code; one rate, which is not tuned",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """RSA of base and tuned: mean over the lower three hidden states behind a block, and the last one's."""
    record = run.trial("lower", seed, keep_artefacts=True)
    report = json.loads((Path(record.folder) / "report.json").read_text(encoding="utf-8"))
    seen = [float(row[1]) for row in report["probes"]["telly"]["rows"]][1:]
    half = len(seen) // 2
    return {"lower": sum(seen[:half]) / half, "top": seen[-1]}
