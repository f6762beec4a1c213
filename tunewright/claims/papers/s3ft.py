"""Tuned on its own right answers, a model keeps its way of answering; on references of another form it does not."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import rows
from tunewright.data.read import read_all
from tunewright.recipe import Source

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

SPEAKS, TUNED = 24_000, 8_000
"""Tokens of the stage that teaches a way of answering, and of the one on references of another form."""

CLAIM = Claim(
    paper="s3ft",
    says=(
        "Tuning on the model's own answer where a judge finds it right, and on the reference only elsewhere, leaves "
        "more of its way of answering than tuning on references alone. (Benchmarks of other abilities, which the paper "
        "has, are not tested.)"
    ),
    task="intents",
    method=Arm(name="own-answers", methods=["full"], uses=["s3ft", "numeric-answer"]),
    baselines=[Arm(name="references", methods=["full"])],
    metric="measured",
    direction="higher",
    smallest=0.05,
    seeds=5,
    strengths=(1.0,),
    rates=(),
    scales=("nano",),
    differs="a model that was taught to answer a topic's number, then tuned on references that say it in a sentence; "
    "share of new rows answered by the number alone; the judge compares numbers, and nothing is paraphrased",
)


def numbered(seed: int) -> dict[str, str]:
    """Files of messages whose topics are numbers: `short` and `long` answers to different rows, and rows to judge."""
    read = {p: list(read_all(Source(path=f"quickstart:{p}")).records) for p in ("train", "validation", "test")}
    topics = sorted({str(r["completion"]).strip() for r in read["train"]})

    def told(part: str, form: str) -> list[dict[str, Any]]:
        return [
            {"prompt": r["prompt"], "completion": form.format(topics.index(str(r["completion"]).strip()) + 1)}
            for r in read[part]
        ]

    pool = list(range(len(read["train"])))
    random.Random(f"{seed}/halves").shuffle(pool)
    half = len(pool) // 2
    short, long = told("train", "{}"), told("train", "The topic of this message is number {}.")
    parts = {
        "short": [short[i] for i in pool[:half]],
        "long": [long[i] for i in pool[half:]],
        "validation": told("validation", "{}"),
        "eval": told("test", "{}"),
    }
    return rows.written(f"numbered-{seed}", parts)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Share of new messages that are answered by the topic's number alone, after both ways of tuning."""
    files = numbered(seed)
    data = {
        "train": [{"path": files["short"], "name": "train"}],
        **{part: [{"path": files[part], "name": part}] for part in ("validation", "eval")},
    }
    makers = [{"s3ft": {"max_new_tokens": 16, "paraphrase": False}}, "numeric-answer"]
    found = {}
    for arm, synthesize in (("own-answers", makers), ("references", [])):
        long = {"train": [{"path": files["long"], "name": "long"}], "synthesize": synthesize}
        stages = [
            {"name": "speaks", "methods": ["full"], "budget": {"tokens": SPEAKS}},
            {"name": "tuned", "data": long, "methods": ["full"], "budget": {"tokens": TUNED}},
        ]
        found[arm] = run.trial(arm, seed, data=data, stages=stages).tuned.target
    return found
