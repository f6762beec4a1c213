"""Of a pool in which half of the rows have another row's answer, few of them are drawn."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import corpus
from tunewright.claims.papers import _kept

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

COUNT = 40
DRAWN: dict[str, Any] = {"keep": COUNT, "iterations": 300}

CLAIM = Claim(
    paper="dealrec",
    says=(
        "Influence and effort find samples that matter for the whole: of rows of which half have another row's answer, "
        "those whose answer fits are kept more often than by chance."
    ),
    task="selection",
    method=Arm(name="dealrec", methods=["full"], extra={"data": {"select": [{"dealrec": DRAWN}]}}),
    baselines=[Arm(name="random", methods=["full"])],
    metric="measured",
    direction="higher",
    smallest=0.1,
    seeds=5,
    rates=(),
    scales=("nano",),
    differs=(
        "instructions instead of recommendations, a surrogate that is the model itself, 300 products; fit of the "
        "answer instead of accuracy after fine-tuning"
    ),
    **_kept.PASSING,
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Share of rows with their own answer among those kept; beside it by influence and by effort alone."""
    rng = random.Random(seed)
    found = [r for part in ("test", "valid") for r in corpus.rows(f"dolly-short/{part}.jsonl.gz")]
    drawn = rng.sample([{"prompt": r["instruction"], "completion": r["response"]} for r in found], 300)
    answers = [r["completion"] for r in drawn[150:]]
    moved = [{**r, "completion": a} for r, a in zip(drawn[150:], [*answers[1:], answers[0]], strict=True)]
    pairs = _kept.pool("dealrec", drawn[:150], moved, seed)
    beside = {"influence alone": {"effort_weight": 0.0}, "effort alone": {"effort_weight": 1e6}}
    return {
        "dealrec": _kept.share(run, "dealrec", seed, pairs),
        "random": _kept.by_chance(pairs, COUNT, seed),
        **{
            name: _kept.share(run, "random", seed, pairs, data={"select": [{"dealrec": {**DRAWN, **change}}]})
            for name, change in beside.items()
        },
    }
