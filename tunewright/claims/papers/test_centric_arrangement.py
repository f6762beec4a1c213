"""After one pass in turns of nearest neighbours, unseen tasks are learnt better than after one in random order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import rows
from tunewright.claims.papers.natural_instructions import ASKED, EACH, HELD_OUT, tasks, told

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

METHOD = "test-centric-arrangement"
PASS = 40_000
"""Tokens of nearly one pass over the tasks that are seen."""
DIFFERS = (
    "44 made-up tasks of two steps on lists of words, and 12 of the same steps that are never seen, in the place of "
    "Flan-mini's; a base of 3.4M parameters; rows are alike by their words; the rows that are aimed at are others of "
    "the unseen tasks than those whose loss is measured, in nats a token of the output; one rate, not tuned"
)

CLAIM = Claim(
    paper=METHOD,
    says="After one pass over the same rows in turns of the target rows' nearest neighbours, nearest first, the loss "
    "on tasks that were never seen is lower than after one in random order.",
    task="domain",
    method=Arm(name="nearest", methods=["full"], uses=[METHOD]),
    baselines=[Arm(name="random", methods=["full"])],
    metric="measured",
    direction="lower",
    smallest=0.02,
    seeds=5,
    strengths=(1.0,),
    rates=(),
    scales=("nano",),
    differs=f"{DIFFERS}; farthest first is run beside it and not judged",
)


def files_of(seed: int) -> dict[str, str]:
    """Files of the seen tasks' rows (`train`), of the unseen tasks' rows to aim at, and of others of theirs."""
    made, form = tasks(seed), "natural-instructions-definition"
    names = rows.shuffled(sorted(made), seed)
    held, seen = names[:HELD_OUT], names[HELD_OUT:]
    parts = {
        "train": rows.shuffled([row for n in seen for row in told(made[n], n, form)[:EACH]], seed),
        "aimed": [row for n in held for row in told(made[n], n, form)[:ASKED]],
        "eval": [row for n in held for row in told(made[n], n, form)[EACH:]],
    }
    return rows.written(f"arranged-{seed}", parts)


def loss_of(run: ClaimRun, arm: str, seed: int, tokens: int, order: str | None) -> float:
    """Loss of the unseen tasks' outputs after so many tokens in an order; None: as rows are drawn."""
    files = files_of(seed)
    data: dict[str, Any] = {
        "train": [{"path": files["train"], "name": "train"}],
        "validation": [{"path": files["aimed"], "name": "validation"}],
        "eval": [{"path": files["eval"], "name": "eval"}],
        "select": [{METHOD: {"compare": "words", "order": order}}] if order is not None else [],
        "chat": False,
    }
    trial = run.trial(arm, seed, data=data, budget={"tokens": tokens}, measurement={"metric": "loss"})
    return float(trial.tuned.target)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Loss after a pass in each order."""
    return {
        "nearest": loss_of(run, "nearest", seed, PASS, "nearest"),
        "random": loss_of(run, "random", seed, PASS, None),
        "farthest": loss_of(run, "nearest", seed, PASS, "farthest"),
    }
