"""What a stronger model of the same kind writes after half a text is likelier to a base than what people wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import rows
from tunewright.claims.papers.non_instructional_fine_tuning import NAME, halves

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CLAIM = Claim(
    paper=NAME,
    says="Before any tuning a base gives what a larger model of its kind writes after the halves of texts a lower loss "
    "than the texts' own second halves: such rows are nearer to what it says already.",
    task="induction",
    method=Arm(name="written", methods=["full"], uses=[NAME]),
    baselines=[Arm(name="own", methods=["full"])],
    metric="measured",
    direction="lower",
    smallest=0.2,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    budget={"steps": 1},
    extra={"measurement": {"metric": "loss", "drift_sequences": 4}},
    scales=("nano",),
    differs="drawn at temperature 1 by the lab's base of 7.1M parameters for one of 3.4M, 64 tokens a text; the paper "
    "has GPT-3.5 and GPT-4 write for other models, and says nothing of these losses",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """The base's loss of both kinds of second halves of the same texts, nats a token."""
    found = {}
    for arm, model in (("written", "teacher"), ("own", None)):
        models: dict[str, Any] = {"models": {"teacher": "nano-large"}} if model else {}
        stages = [{"name": "halves", "data": halves(model), "methods": ["full"]}]
        made = run.trial(arm, seed, keep_artefacts=True, data={"validation": None}, stages=stages, **models)
        text = (Path(made.folder) / "made" / "halves.rows.jsonl").read_text(encoding="utf-8")
        pairs = [{k: json.loads(line)[k] for k in ("prompt", "completion")} for line in text.splitlines()]
        file = rows.written(f"halves-{arm}-{seed}", {"eval": pairs})["eval"]
        judged = {"eval": [{"path": file, "name": "eval"}], "validation": None}
        found[arm] = float(run.trial(arm, seed, data=judged).base.target)
    return found
