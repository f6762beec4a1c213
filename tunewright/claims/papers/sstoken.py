"""Where a fifth of the answers' symbols are wrong, training on the tokens that ssToken keeps learns the task better."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import TYPE_CHECKING

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import rows

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

WRONG, DIGITS = 0.2, "0123456789"
CLAIM = Claim(
    paper="sstoken",
    says="Trained on answers of which a fifth of the digits are wrong, the tokens with the best scores of excess loss "
    "and attention teach the task better than all tokens do.",
    task="arithmetic",
    method=Arm(name="sstoken", methods=["full"], uses=["sstoken"]),
    baselines=[Arm(name="all-tokens", methods=["full"])],
    metric="measured",
    direction="lower",
    smallest=0.02,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    extra={"measurement": {"metric": "loss"}},
    scales=("nano",),
    differs="procedural problems with wrong digits in the answers instead of instructions as they were found; judged "
    "by the loss of right answers, in nats per token; one rate for both; its two signals alone are not compared",
)


def spoilt(path: str, seed: int) -> str:
    """The rows with another digit in the place of each of the answers' digits, with probability `WRONG`."""
    rng, made = random.Random(f"{seed}/spoilt"), []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        wrong = [
            rng.choice(DIGITS.replace(c, "")) if c in DIGITS and rng.random() < WRONG else c for c in row["completion"]
        ]
        made.append({**row, "completion": "".join(wrong)})
    return rows.written(f"spoilt-{seed}", {"train": made})["train"]


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Loss of right answers to new problems after training on spoilt ones, on the best tokens and on all."""
    data = {"train": [{"path": spoilt(run.task["data"]["train"][0]["path"], seed), "name": "train"}]}
    methods = {"sstoken": ["full", "sstoken"], "all-tokens": ["full"]}
    return {
        arm: run.trial(
            arm, seed, data=data, stages=[{"name": "main", "methods": used, "budget": run.task["budget"]}]
        ).tuned.target
        for arm, used in methods.items()
    }
