"""A chain of continued pre-training and tuning, merged with the model that it began from, surpasses both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import corpus, rows

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CLAIM = Claim(
    paper="cpt-sft-dpo-merging",
    says=(
        "SLERP of an instruction-tuned model and what continued pre-training and tuning made of it surpasses both "
        "parents on the domain's task."
    ),
    task="intents",
    method=Arm(name="slerp", methods=["full"], uses=["slerp"]),
    baselines=[Arm(name="chain", methods=["full"]), Arm(name="instruct", methods=["full"])],
    metric="measured",
    direction="higher",
    smallest=0.01,
    strengths=(1.0,),
    real={"seeds": 5, "budget": {"tokens": 20_000}, "rates": (3e-5, 1e-4, 3e-4)},
    differs=(
        "bank messages; each stage has the same budget and rate; no preference stage; one t (0.5) for all "
        "depths; far smaller models"
    ),
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Exact match of both parents and of their SLERP."""
    texts = [{"text": r["text"].strip()} for r in rows.shuffled(corpus.rows("banking77/train.jsonl.gz"))[:2000]]
    plain = rows.written("bank-text", {"train": texts})["train"]
    stages: list[dict[str, Any]] = [
        {"name": "instruct", "start": "base"},
        {"name": "domain", "data": {"train": [{"path": plain}]}},
        {"name": "tuned", "train": {"seed": 100 + seed}},
    ]
    records = {
        "slerp": run.trial(
            "slerp", seed, stages=stages, after=[{"slerp": {"of": ["stages.instruct"], "t": 0.5}}], keep=[]
        ),
        "chain": run.trial("chain", seed, stages=stages, keep=[]),
        "instruct": run.trial("instruct", seed, stages=stages[:1], keep=[]),
    }
    return {name: record.tuned.target for name, record in records.items()}
