"""Of a mixed pool, the nearest neighbours of the task's texts teach its words better than as many texts by chance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import rows
from tunewright.claims.papers import _reading_on as reading

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

KEPT, TOKENS = 400, 20_000

CLAIM = Claim(
    paper="dapt",
    says="Masked words of the task's held-out texts are foreseen better after reading the nearest neighbours of the "
    "task's texts in a mixed pool than after as many texts of the pool by chance, for as many tokens.",
    task="topics",
    method=Arm(name="knn", methods=["full"]),
    baselines=[Arm(name="random", methods=["full"])],
    metric="measured",
    direction="lower",
    smallest=0.05,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    differs="words weighted by rarity instead of VAMPIRE's embedding; a pool of customers' questions and German law, "
    "of which the nearest 400 are held against 400 by chance; the loss, and no accuracy after fine-tuning",
)


def pool(seed: int) -> str:
    """2,000 questions and 6,000 sentences of law, mixed by the seed."""
    mixed = [*rows.shuffled(reading.domain_texts(), seed)[:2000], *rows.shuffled(reading.other_texts(), seed)[:6000]]
    return rows.written("pool", {"train": [{"text": t} for t in rows.shuffled(mixed, seed)]})["train"]


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Loss of masked words in the task's 300 rows, nats a token."""
    chosen: dict[str, list[Any]] = {
        "knn": [{"knn": {"k": 3}}, {"random": {"keep": KEPT}}],
        "random": [{"random": {"keep": KEPT}}],
    }
    out = {}
    for arm, select in chosen.items():
        made = reading.recipe(run, arm, seed, [(pool(seed), TOKENS)], select=select)
        out[arm] = float(run.engine.run_one(made, False).tuned.target)
    return out
